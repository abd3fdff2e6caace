/*  The order that a project ends up with when its own headers include awq.h first.               */
#include "awq.h"
#ifndef AWQ_IMPLEMENTATION
#define AWQ_IMPLEMENTATION
#endif
#include "awq.h"
#include "awq.h"
