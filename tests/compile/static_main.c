#include "awq.h"

int first_copy(void);
int second_copy(void);

int main(void)
{
    return first_copy() == AWQ_VERSION && second_copy() == AWQ_VERSION ? 0 : 1;
}
