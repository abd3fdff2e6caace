/*  The library itself, in a file of its own so that its size can be read off.                    */
#define AWQ_IMPLEMENTATION
#include "../../awq.h"
