/*  bert.h - an encoder from the files of a Hugging Face directory: config.json, vocab.txt,
    model.safetensors, and sentence_bert_config.json if it is there. */
#ifndef SEARCH_BERT_H
#define SEARCH_BERT_H

#include "../formats/safetensors.h"
#include "encoder.h"

typedef struct bert {
    encoder e;                  /* its weights lie in the mapped file where that is possible */
    safetensors_file weights;
    mapped_file vocabulary;
    float **converted;          /* what had to be copied */
    size_t converted_count;
} bert;

/*  One line of failure says which file and what is wrong with it. */
bool bert_open(bert *m, const char *directory, failure *why);
void bert_close(bert *m);

#endif
