/*  rope_order.h - the two orders of q's and k's rows. Rotary positions turn pairs of a head's
    channels: GGUF files of Llamas have the two of a pair side by side, Hugging Face has them half a
    head apart. */
#ifndef LLM_ROPE_ORDER_H
#define LLM_ROPE_ORDER_H

#include "../common/files.h"

#include "../../awq.h"

typedef enum rope_order { ORDER_GGUF, ORDER_HF } rope_order;

/*  Puts rows in the other order: whole heads of head_dim rows (even), of row_size bytes each. */
bool reorder_rows(void *rows, size_t rows_count, size_t row_size, size_t head_dim, rope_order to,
                  failure *why);

/*  The same for a packed linear: its integers, zeros and scales move with their rows, nothing is
    rounded. memory [packed->size] may be the packed bytes themselves. */
bool reorder_packed(const awq_packed *packed, size_t head_dim, rope_order to, void *memory,
                    failure *why);

#endif
