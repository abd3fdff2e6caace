#!/bin/sh
# run.sh BUILD [OPTION...]   what `make quality` does: the tables of docs/quality.md
#
# First a sentence encoder, then a language model. With options, those of the program, only the
# tables asked for on the encoder; with --perplexity GROUP... only the language model, for those group
# sizes, with options of llm after them. CALIB and TEXT name files of yours, GGML another
# libggml-base.so.
set -eu

build=$1
shift
here=$(dirname "$0")
data=$here/../data
encoder=$(sh "$here/../search/get_model.sh" "$build/models")
calibration=${CALIB:-$(sh "$here/texts.sh" "$build/models")}
shorter=${CALIB:-$(sh "$here/texts.sh" "$build/models" 7)}   # for the language model, which is larger
text=${TEXT:-$build/quality/heldout.txt}
if [ -z "${TEXT:-}" ]; then cat "$data/heldout.txt" "$data/calibration.txt" >"$text"; fi

if [ "${1:-}" = --perplexity ]; then
    shift
    CALIB=$shorter TEXT=$text exec sh "$here/perplexity.sh" "$build" "$@"
fi
everything=''
case " $* " in
    *' --table '* | *' --group '* | *' --bits '* | *' --budget '* | *' --layers '*) ;;
    *)
        everything=yes
        set -- --table methods --group 128 --group 64 --table groups --table bits --table ggml \
            --table budget "$@"
esac
case " $* " in
    *' ggml '*)                         # without it the program says what is left out
        if ggml=$(sh "$here/get_ggml.sh" "$build/models"); then
            LD_LIBRARY_PATH=$(dirname "$ggml")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
            export LD_LIBRARY_PATH      # its own libraries lie beside it
            set -- "$@" --ggml "$ggml"
        fi
esac
"$build/quality/quality" "$encoder" "$calibration" "$text" "$@"
[ -z "$everything" ] || CALIB=$shorter TEXT=$text sh "$here/../llm/run.sh" "$build/llm" --tokens 1
