#!/bin/sh
# mpirun.sh RANKS PROGRAM [ARGUMENT...]   mpirun on this machine alone: more ranks than processors are
#                                         allowed, threads are not bound to one of them, root may
set -eu

ranks=$1
shift
root=''
[ "$(id -u)" != 0 ] || root=--allow-run-as-root
# shellcheck disable=SC2086   # none or one word
exec "${MPIEXEC:-mpirun}" $root --oversubscribe --bind-to none -n "$ranks" "$@"
