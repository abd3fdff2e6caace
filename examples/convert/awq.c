/*  awq.c - the one file that holds awq.h's code. */
#define AWQ_IMPLEMENTATION
#include "../../awq.h"
