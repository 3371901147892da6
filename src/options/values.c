/* Values of options: sizes and property lists. */
#include <string.h>

#include "options/options.h"

bool parse_size(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "KMGT";
    char *end;
    if (!g_ascii_isdigit(*text))
        return false;
    uint64_t whole = g_ascii_strtoull(text, &end, 10);
    double fraction = 0;
    if (*end == '.') {
        const char *point = end;
        if (!g_ascii_isdigit(point[1]))
            return false;
        fraction = g_ascii_strtod(point, &end);
    }
    unsigned shift = 20;
    if (*end) {
        const char *s = strchr(suffixes, g_ascii_toupper(*end));
        if (!s || end[1])
            return false;
        shift = 10 * (unsigned)(s - suffixes + 1);
    }
    if (whole > UINT64_MAX >> (shift + 1))
        return false;
    *bytes = (whole << shift) + (uint64_t)(fraction * (double)BIT(shift));
    return true;
}

Prop *props_split(const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, ",", -1);
    unsigned n = g_strv_length(words);
    Prop *p = g_new0(Prop, n + 1);
    for (unsigned i = 0; i < n; i++) {
        const char *eq = strchr(words[i], '=');
        p[i].key = eq ? g_strndup(words[i], (gsize)(eq - words[i])) : g_strdup(words[i]);
        p[i].value = eq ? g_strdup(eq + 1) : NULL;
    }
    return p;
}

void props_free(Prop *props)
{
    for (Prop *p = props; p && p->key; p++) {
        g_free(p->key);
        g_free(p->value);
    }
    g_free(props);
}
