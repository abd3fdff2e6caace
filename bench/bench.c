/*  bench.c - how fast awq.h is, beside how exact it is and what limits it. Names of the lines:

        matmul/<library>/<kernel>/<a8|a16|f32>/<out>x<in>/g<group>/tokens:<n>/threads:<n>
        prepare/... stats/... search/... fit/... factor/... round/... quantize_pack/...
        convert/...  limit/<what>/threads:<n>

    What is timed is prepare and matmul together, from fp32 activations to fp32 outputs, on random
    normal data. GOP/s counts a multiplication and an addition as two; GB/s is of the weights.    */
#include "measure.h"
#include "rows.h"
#include "tiles.h"

#include <stdio.h>
#include <string.h>

/*  The first value of this key, or "unknown": not every system has the file or the key.          */
static void cpuinfo(const char *key, char *value, size_t size)
{
    char line[256], *colon;
    FILE *file = fopen("/proc/cpuinfo", "r");
    snprintf(value, size, "unknown");
    while (file && fgets(line, sizeof line, file)) {
        size_t length = strlen(key);
        if (strncmp(line, key, length) == 0 && line[length] == '\t'
            && (colon = strstr(line, ": ")) != NULL) {
            colon[strcspn(colon, "\n")] = '\0';
            snprintf(value, size, "%s", colon + 2);
            break;
        }
    }
    if (file) fclose(file);
}

static void print_cpu(void)
{
    char name[128], family[16], model[16], text[192];
    cpuinfo("model name", name, sizeof name);
    cpuinfo("cpu family", family, sizeof family);
    cpuinfo("model", model, sizeof model);
    snprintf(text, sizeof text, "%s, family %s model %s", name, family, model);
    bench_context("cpu", text);
}

static void print_context(void)
{
    char text[256], processors[160];
    print_cpu();
    bench_context("compiler", BENCH_COMPILER);
    bench_context("flags", BENCH_FLAGS);
    bench_context("kernels", awq_kernels_best().name);
    bench_context("pages", rotation_pages());
    snprintf(text, sizeof text, "%zu MiB", rotation_size() >> 20);
    bench_context("rotated", text);
    pool_processor_list(processors, sizeof processors);
    bench_context("pinned to", processors);
}

/*  The best set runs everything; the others one large shape, and the small ones.                 */
int main(int argc, char **argv)
{
    awq_kernels kernels[16];
    size_t count, i, s;

    ask_for_tiles();
    count = awq_kernels_list(kernels, COUNT(kernels));
    if (count > COUNT(kernels)) count = COUNT(kernels);

    print_context();
    add_limits();
    for (s = 0; s < LARGE_SHAPES; s++) {
        for (i = 0; i < (s == 0 ? count : 1); i++) add_matmuls(&kernels[i], s, s + 1);
        add_openblas(s, s + 1);
    }
    for (i = 0; i < count; i++) add_small_matmuls(&kernels[i]);
    for (i = 0; i < count; i++) add_prepares(&kernels[i]);
    for (i = 0; i < count; i++) add_quantizers(&kernels[i], i == 0);
    add_layouts(&kernels[0]);
    return bench_main(argc, argv);
}
