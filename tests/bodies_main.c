/*  Runs the test bodies on every kernel set without a test runner: on emulated processors and bare
    boards. Exit status 0: all passed. With a freestanding libc, AWQ_SEED is simply not set.      */
#include "bodies.h"

int main(void)
{
    static const body bodies[] = { BODIES };
    awq_kernels kernels[16];
    size_t count = awq_kernels_list(kernels, COUNT(kernels)), i, b;
    uint64_t seed = check_seed();
    int failures = count == 0;

    for (i = 0; i < count; i++)
        for (b = 0; b < COUNT(bodies); b++) {
            int failed = bodies[b].run(&kernels[i], seed, bodies[b].cases);
            printf("%s %-12s %s\n", failed ? "FAILED" : "ok    ", kernels[i].name, bodies[b].name);
            failures += failed;
        }
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
