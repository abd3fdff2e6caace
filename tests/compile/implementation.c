#ifndef AWQ_IMPLEMENTATION
#define AWQ_IMPLEMENTATION
#endif
#include "awq.h"
