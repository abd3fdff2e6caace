/*  library.c - awq.h compiled: static, or (AWQ_SHARED) shared with its own functions exported and
    nothing else, whatever the compiler exports by default.                                       */
#ifdef AWQ_SHARED
#  if defined(_WIN32) || defined(__CYGWIN__)
#    define AWQDEF __declspec(dllexport)
#  else
#    define AWQDEF __attribute__((visibility("default")))
#  endif
#endif
#define AWQ_IMPLEMENTATION
#include "awq.h"
