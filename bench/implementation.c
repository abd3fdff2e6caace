#define AWQ_IMPLEMENTATION
#include "awq.h"
