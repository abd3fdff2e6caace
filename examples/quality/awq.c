/*  awq.c - the implementation of awq.h, compiled once. */
#define AWQ_IMPLEMENTATION
#include "../../awq.h"
