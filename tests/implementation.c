/*  The library under test, compiled once for all test programs. */
#define AWQ_IMPLEMENTATION
#include "awq.h"
