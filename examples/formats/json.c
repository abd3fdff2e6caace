/*  json.c - see json.h. */
#include "json.h"

json_shown json_show(const char *text)
{
    json_shown shown;
    size_t i;

    for (i = 0; text[i] && i < sizeof shown.text - 1; i++)
        shown.text[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    shown.text[i] = '\0';
    return shown;
}

json_t *json_read(const void *bytes, size_t size, const char *name, failure *why)
{
    json_error_t error;
    json_t *value = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, &error);

    if (!value) {
        fail(why, "%s: not valid JSON: line %d: %s", name, error.line, json_show(error.text).text);
    } else if (!json_is_object(value)) {
        fail(why, "%s: not a JSON object", name);
        json_decref(value);
        value = NULL;
    }
    return value;
}

json_t *json_read_file(const char *path, failure *why)
{
    mapped_file file;
    json_t *value;

    if (!file_map(&file, path, why)) return NULL;
    value = json_read(file.bytes, file.size, path, why);
    file_unmap(&file);
    return value;
}

bool json_get_size(const json_t *value, size_t *out)
{
    json_int_t number = json_integer_value(value);

    if (!json_is_integer(value) || number < 0 || (uint64_t)number > SIZE_MAX) return false;
    *out = (size_t)number;
    return true;
}
