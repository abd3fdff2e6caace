/*  tiny.h - a small random sentence encoder as a directory, to test on. */
#ifndef SEARCH_TINY_H
#define SEARCH_TINY_H

#include "../../common/files.h"

/*  40 channels in 5 heads, 72 in the feed-forward, 2 layers, texts of up to 24 tokens. */
enum { TINY_DIM = 40, TINY_FFN = 72, TINY_HEADS = 5, TINY_LAYERS = 2, TINY_ROOM = 24 };

extern const char tiny_vocabulary[];

/*  Writes config.json, sentence_bert_config.json, vocab.txt, model.safetensors. */
bool tiny_write(const char *folder, failure *why);

#endif
