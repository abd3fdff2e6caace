/*  json.h - JSON from files that are not trusted, by jansson. */
#ifndef FORMATS_JSON_H
#define FORMATS_JSON_H

#include "../common/files.h"

#include <jansson.h>

/*  The JSON object in these bytes, or NULL: text after it, a key twice, NUL in a string, invalid
    UTF-8, integers beyond 64 bits and anything deeper than 2048 are refused. `name` is for the
    message. The caller owns it (json_decref). */
json_t *json_read(const void *bytes, size_t size, const char *name, failure *why);
json_t *json_read_file(const char *path, failure *why);

/*  False if it is no integer or negative or beyond size_t; *out is then as it was. */
bool json_get_size(const json_t *value, size_t *out);

/*  A string from the file, shortened and made safe to print. */
typedef struct json_shown { char text[100]; } json_shown;
json_shown json_show(const char *text);

#endif
