/*  export_tiny.c FOLDER TEXT   a small random model quantized and exported, for readers in other
    languages: FOLDER/directory, FOLDER/saved.gguf, and FOLDER/ids, the tokens of TEXT. Prints the
    perplexity of TEXT. */
#include "../export.h"
#include "../quantize.h"
#include "tiny.h"

typedef struct paths { char original[256], saved[256], directory[256], ids[256]; } paths;

static paths paths_in(const char *folder)
{
    paths p;
    snprintf(p.original, sizeof p.original, "%.200s/original.gguf", folder);
    snprintf(p.saved, sizeof p.saved, "%.200s/saved.gguf", folder);
    snprintf(p.directory, sizeof p.directory, "%.200s/directory", folder);
    snprintf(p.ids, sizeof p.ids, "%.200s/ids", folder);
    return p;
}

static bool write_original(const char *path, failure *why)
{
    tiny_options options = { "smollm", false, GGUF_F32, TINY_ROPE_NONE };
    size_t header_size;
    byte_buffer file = tiny_gguf(options, &header_size);
    bool written = file_write_whole(path, file.bytes, file.size, why);

    free(file.bytes);
    return written;
}

static bool read_text(const model *m, const char *path, token_list *tokens, failure *why)
{
    mapped_file file;
    bool read;

    if (!file_map(&file, path, why)) return false;
    read = tokenizer_encode(&m->tok, (const char *)file.bytes, file.size, false, tokens, why);
    file_unmap(&file);
    return read;
}

static bool write_ids(const token_list *tokens, const char *path, failure *why)
{
    char line[16];
    file_writer out;
    size_t i;

    if (!file_write_begin(&out, path, why)) return false;
    for (i = 0; i < tokens->count; i++) {
        int length = snprintf(line, sizeof line, "%u\n", (unsigned)tokens->ids[i]);
        if (!file_write(&out, line, (size_t)length, why)) return false;
    }
    return file_write_end(&out, why);
}

static bool quantize_and_export(const model *m, compute *c, const token_list *text, const paths *p,
                                failure *why)
{
    quantize_options options = quantize_defaults();
    quantized_model q;
    text_score score;
    bool done;

    options.quant.group_size = 32;
    options.head_bits = 16;
    options.method = METHOD_AWQ;
    if (!quantize_model(&q, m, c, text, &options, why)) return false;
    done = save_model(&q.m, p->saved, why) && export_hf(&q.m, p->directory, why)
           && score_text(&q.m, c, text, "perplexity", &score, why);
    if (done) printf("%.6f\n", score.perplexity);
    quantized_model_close(&q);
    return done;
}

static bool run(const paths *p, const char *text_path, failure *why)
{
    token_list text = { 0 };
    compute c;
    model m;
    bool done;

    if (!write_original(p->original, why) || !model_open(&m, p->original, why)) return false;
    done = compute_open(&c, 0, AWQ_A16, why) && read_text(&m, text_path, &text, why)
           && write_ids(&text, p->ids, why) && quantize_and_export(&m, &c, &text, p, why);
    token_list_free(&text);
    compute_close(&c);
    model_close(&m);
    return done;
}

int main(int count, char **arguments)
{
    failure why = { "usage: export_tiny FOLDER TEXT" };
    paths p = paths_in(count == 3 ? arguments[1] : "");

    if (count == 3 && run(&p, arguments[2], &why)) return 0;
    fprintf(stderr, "error: %s\n", why.text);
    return 1;
}
