#include "devices/props.h"

#include "base/log.h"

bool prop_take_choice(const Device *dev, GHashTable *props, const char *key, const char *first,
                      const char *second, bool *is_second, GError **err)
{
    const char *text = props ? g_hash_table_lookup(props, key) : NULL;
    if (!text)
        return true;
    *is_second = g_str_equal(text, second);
    if (!*is_second && !g_str_equal(text, first)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "device %s: %s=%s: there are %s and %s",
                    dev->cls->name, key, text, first, second);
        return false;
    }
    g_hash_table_remove(props, key);
    return true;
}

bool prop_take_number(const Device *dev, GHashTable *props, const char *key, uint64_t max,
                      uint64_t *value, GError **err)
{
    const char *text = props ? g_hash_table_lookup(props, key) : NULL;
    if (!text)
        return true;
    bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    guint64 number;
    if (!g_ascii_string_to_unsigned(hex ? text + 2 : text, hex ? 16 : 10, 0, max, &number, NULL)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "device %s: %s=%s is not a number from 0 to %#" G_GINT64_MODIFIER "x",
                    dev->cls->name, key, text, max);
        return false;
    }
    *value = number;
    g_hash_table_remove(props, key);
    return true;
}
