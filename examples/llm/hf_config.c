/*  hf_config.c - see hf_config.h. */
#include "hf_config.h"

#include <math.h>

/* ---- reading --------------------------------------------------------------------------------- */

static bool need_size(const json_t *config, const char *key, size_t *out, failure *why)
{
    if (json_get_size(json_object_get(config, key), out) && *out > 0 && *out < (size_t)1 << 30)
        return true;
    return fail(why, "config.json has no usable number \"%s\"", key);
}

static double number_or(const json_t *object, const char *key, double otherwise)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : otherwise;
}

static const char *text_or(const json_t *object, const char *key, const char *otherwise)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : otherwise;
}

static bool check_architecture(const json_t *config, failure *why)
{
    const char *type = text_or(config, "model_type", "");
    const char *act = text_or(config, "hidden_act", "silu");

    if (strcmp(type, "llama") != 0)
        return fail(why, "config.json: model_type \"%s\"; only \"llama\" is run",
                    json_show(type).text);
    if (strcmp(act, "silu") != 0)
        return fail(why, "config.json: hidden_act \"%s\"; only \"silu\" is run",
                    json_show(act).text);
    return true;
}

static bool read_llama3(const json_t *scaling, model *m, failure *why)
{
    llama3_scaling s;

    s.factor = number_or(scaling, "factor", 0);
    s.low = number_or(scaling, "low_freq_factor", 0);
    s.high = number_or(scaling, "high_freq_factor", 0);
    s.original = number_or(scaling, "original_max_position_embeddings", 0);
    if (!(s.factor > 0) || !(s.low > 0) || !(s.high > s.low) || !(s.original > 0))
        return fail(why, "config.json: rope_scaling lacks usable factors of \"llama3\"");
    m->rope.factors = malloc((m->rope_dims / 2 + 1) * sizeof *m->rope.factors);
    if (!m->rope.factors) return fail(why, "out of memory");
    llama3_factors(&s, m->rope.base, m->rope_dims, m->rope.factors);
    return true;
}

/*  Since transformers 5 all of it is in rope_parameters. */
static bool read_rope(const json_t *config, model *m, failure *why)
{
    const json_t *parameters = json_object_get(config, "rope_parameters");
    const json_t *scaling = parameters ? parameters : json_object_get(config, "rope_scaling");
    const char *type = text_or(scaling, "rope_type", text_or(scaling, "type", "default"));

    m->rope.base = number_or(parameters, "rope_theta", number_or(config, "rope_theta", 10000.0));
    m->rope.scale = 1.0;
    if (strcmp(type, "llama3") == 0) return read_llama3(scaling, m, why);
    if (strcmp(type, "linear") == 0) {
        m->rope.scale = number_or(scaling, "factor", 0);
        return true;
    }
    if (strcmp(type, "default") == 0) return true;
    return fail(why, "config.json: rope type \"%s\" is not known; default, linear and llama3 are",
                json_show(type).text);
}

bool hf_config_read(const json_t *config, model *m, size_t *rows, failure *why)
{
    if (!check_architecture(config, why)
        || !need_size(config, "num_hidden_layers", &m->layers_count, why)
        || !need_size(config, "hidden_size", &m->dim, why)
        || !need_size(config, "intermediate_size", &m->ffn_dim, why)
        || !need_size(config, "num_attention_heads", &m->heads, why)
        || !need_size(config, "vocab_size", rows, why))
        return false;
    m->kv_heads = m->heads;
    json_get_size(json_object_get(config, "num_key_value_heads"), &m->kv_heads);
    m->head_dim = m->dim / m->heads;
    json_get_size(json_object_get(config, "head_dim"), &m->head_dim);
    m->rope_dims = m->head_dim;
    m->context = 2048;
    json_get_size(json_object_get(config, "max_position_embeddings"), &m->context);
    m->norm_epsilon = number_or(config, "rms_norm_eps", 1e-6);
    m->tied = json_is_true(json_object_get(config, "tie_word_embeddings"));
    if (m->head_dim > 4096) return fail(why, "config.json: head_dim %zu is not run", m->head_dim);
    return read_rope(config, m, why);
}

static uint32_t read_id(const json_t *value, size_t count)
{
    size_t id;
    return json_get_size(value, &id) && id < count ? (uint32_t)id : NO_TOKEN;
}

void hf_config_read_ids(const json_t *config, vocabulary *words)
{
    const json_t *end = json_object_get(config, "eos_token_id");
    const json_t *begin = json_object_get(config, "bos_token_id");

    words->eos = read_id(json_is_array(end) ? json_array_get(end, 0) : end, words->tokens_count);
    words->eot = read_id(json_array_get(end, 1), words->tokens_count);
    if (words->bos == NO_TOKEN) words->bos = read_id(begin, words->tokens_count);
}

/* ---- writing --------------------------------------------------------------------------------- */

bool hf_config_check(const model *m, failure *why)
{
    if (m->rope_dims != m->head_dim)
        return fail(why, "rope turns %zu of %zu channels of a head; config.json cannot say that",
                    m->rope_dims, m->head_dim);
    if (m->rope.factors && (m->rope.scale != 1.0 || !llama3_find(&m->rope, m->rope_dims)))
        return fail(why, "rope_freqs.weight is not that of Llama 3.1 or 3.2; config.json cannot "
                         "hold other factors");
    return true;
}

/*  The double that prints shortest among those that round to this float: 1e-05, not
    9.9999997e-06. */
static double shortest(float value)
{
    char text[32];
    int digits;

    for (digits = 1; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    return digits < 9 ? strtod(text, NULL) : (double)value;
}

static json_t *token_id(uint32_t id)
{
    return id == NO_TOKEN ? json_null() : json_integer((json_int_t)id);
}

/*  A number, or an array where an answer can end in two ways. */
static json_t *end_ids(const model *m)
{
    uint32_t eos = m->words.eos, eot = m->words.eot;

    if (eot == NO_TOKEN || eot == eos) return token_id(eos);
    if (eos == NO_TOKEN) return token_id(eot);
    return json_pack("[I, I]", (json_int_t)eos, (json_int_t)eot);
}

static json_t *rope_scaling(const model *m)
{
    const llama3_scaling *s = m->rope.factors ? llama3_find(&m->rope, m->rope_dims) : NULL;

    if (s)
        return json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", s->factor,
                         "low_freq_factor", s->low, "high_freq_factor", s->high,
                         "original_max_position_embeddings", (json_int_t)s->original);
    if (m->rope.scale != 1.0)
        return json_pack("{s:s, s:f}", "rope_type", "linear", "factor", m->rope.scale);
    return json_null();
}

bool hf_config_has_bias(const model *m, size_t which)
{
    size_t first = which <= LINEAR_O ? LINEAR_Q : LINEAR_GATE;
    size_t end = which <= LINEAR_O ? LINEAR_GATE : LINEARS, i;

    for (i = 0; i < m->layers_count; i++)
        for (which = first; which < end; which++)
            if (m->layers[i].linears[which].bias) return true;
    return false;
}

json_t *hf_config_make(const model *m, awq_quant quant)
{
    json_t *excluded = json_pack("[s]", "lm_head");
    json_t *made = json_pack(
        "{s:[s], s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:o, s:b, s:b, s:b,"
        " s:o, s:o, s:s, s:b, s:o}",
        "architectures", "LlamaForCausalLM", "model_type", "llama", "hidden_act", "silu",
        "hidden_size", (json_int_t)m->dim, "intermediate_size", (json_int_t)m->ffn_dim,
        "num_hidden_layers", (json_int_t)m->layers_count, "num_attention_heads",
        (json_int_t)m->heads, "num_key_value_heads", (json_int_t)m->kv_heads, "head_dim",
        (json_int_t)m->head_dim, "vocab_size", (json_int_t)m->vocabulary,
        "max_position_embeddings", (json_int_t)m->context, "rms_norm_eps",
        shortest((float)m->norm_epsilon), "rope_theta", m->rope.base, "rope_scaling",
        rope_scaling(m), "tie_word_embeddings", m->tied, "attention_bias",
        hf_config_has_bias(m, LINEAR_Q), "mlp_bias", hf_config_has_bias(m, LINEAR_UP),
        "bos_token_id", token_id(m->words.bos), "eos_token_id", end_ids(m),
        "torch_dtype", "float16", "use_cache", 1, "quantization_config",
        excluded ? hf_quantization_config(AWQ_GEMM, quant, excluded) : NULL);

    json_decref(excluded);
    return made;
}

json_t *hf_generation_config_make(const model *m)
{
    return json_pack("{s:b, s:o, s:o, s:o}", "_from_model_config", 1, "bos_token_id",
                     token_id(m->words.bos), "eos_token_id", end_ids(m), "pad_token_id",
                     token_id(m->words.padding));
}
