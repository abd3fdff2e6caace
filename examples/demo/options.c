/*  options.c - the demo's command line.                                                          */
#include "demo.h"

static const char usage[] =
    "usage: demo [options]\n"
    "Quantizes a transformer layer with AWQ in several ways and compares their errors.\n\n"
    "  --bits N       bits per weight: 2, 3, 4 or 8 (4)\n"
    "  --group N      inputs that share a scale; -1: the whole row (128)\n"
    "  --symmetric    no zero points\n"
    "  --threads N    0: one per processor (0)\n"
    "  --data FILE    the layer (examples/data/layer.bin)\n"
    "  --svg FILE     the picture to write (build/demo.svg)\n"
    "  --save FILE    write the best packed tensor, followed by s\n"
    "  --help         this text\n";

static const char *value_of(const char *option, const char *value)
{
    if (!value) die("%s needs a value; --help says which", option);
    return value;
}

static int number_of(const char *option, const char *text, long least, long most)
{
    char *end;
    long number;

    errno = 0;
    number = strtol(value_of(option, text), &end, 10);
    if (end == text || *end || errno || number < least || number > most)
        die("%s %s: must be a whole number from %ld to %ld", option, text, least, most);
    return (int)number;
}

/*  False if there is no such option.                                                             */
static bool set_option(options *o, const char *option, const char *value)
{
    awq_quant *quant = &o->quant;

    if (!strcmp(option, "--bits")) quant->bits = number_of(option, value, 2, 8);
    else if (!strcmp(option, "--group")) quant->group_size = number_of(option, value, -1, 1 << 20);
    else if (!strcmp(option, "--threads")) o->threads = (size_t)number_of(option, value, 0, 256);
    else if (!strcmp(option, "--data")) o->data = value_of(option, value);
    else if (!strcmp(option, "--svg")) o->svg = value_of(option, value);
    else if (!strcmp(option, "--save")) o->save = value_of(option, value);
    else return false;
    return true;
}

options parse_options(int argc, char **argv)
{
    options o = { "examples/data/layer.bin", "build/demo.svg", NULL, { 4, 128, 0, AWQ_F16 }, 0 };
    int i;

    for (i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) {
            fputs(usage, stdout);
            exit(0);
        }
        if (!strcmp(argv[i], "--symmetric")) o.quant.symmetric = 1;
        else if (set_option(&o, argv[i], argv[i + 1])) i++;
        else die("%s: no such option; --help lists them", argv[i]);
    }
    if (awq_packed_size(o.quant, 1, 1) == 0)
        die("--bits %d --group %d: bits must be 2, 3, 4 or 8, and the group -1 or at least 1",
            o.quant.bits, o.quant.group_size);
    return o;
}
