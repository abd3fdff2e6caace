/*  tiny.h - a small random sentence encoder as a directory, to test on. */
#ifndef SEARCH_TINY_H
#define SEARCH_TINY_H

#include "../../common/files.h"

/*  40 channels in 5 heads, 72 in the feed-forward, 2 layers, texts of up to 24 tokens. */
enum { TINY_DIM = 40, TINY_FFN = 72, TINY_HEADS = 5, TINY_LAYERS = 2, TINY_ROOM = 24 };

extern const char tiny_vocabulary[];

/*  A new folder with config.json, sentence_bert_config.json, vocab.txt, model.safetensors. */
extern char tiny_folder[64];
bool tiny_open(failure *why);

/*  The name of a file there; it stays until the next but one. */
const char *tiny_path(const char *name);

/*  Removes those and `others`, then the folder: false if it is not empty. */
bool tiny_close(const char *const *others, size_t count);

#endif
