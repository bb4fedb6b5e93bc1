/* Texts by number: labels of sites, names of requests, details of parts. What a label is, Python knows. */

#include "ledger.h"

static int
add_text(Names *names, PyObject *text, uint32_t *number)
{
    Py_ssize_t count = PyList_GET_SIZE(names->texts);
    if (count >= MAX_TEXTS) {
        *number = OTHER_TEXT;
        return 0;
    }
    PyObject *value = PyLong_FromSsize_t(count);
    if (value == NULL || PyDict_SetItem(names->numbers, text, value) < 0 || PyList_Append(names->texts, text) < 0) {
        Py_XDECREF(value);
        return -1;
    }
    Py_DECREF(value);
    *number = (uint32_t)count;
    return 0;
}

int
text_number(Names *names, PyObject *text, uint32_t *number)
{
    if (!PyUnicode_Check(text)) {
        PyErr_SetString(PyExc_TypeError, "no text");
        return -1;
    }
    PyObject *known = PyDict_GetItemWithError(names->numbers, text);
    if (known == NULL)
        return PyErr_Occurred() ? -1 : add_text(names, text, number);
    *number = (uint32_t)PyLong_AsUnsignedLong(known);
    return 0;
}

/* The text of this format with another text in it; remembered in ``known``, by the number of that. */
static int
made_text(Names *names, const char *format, uint32_t name, uint32_t **known, size_t *size, uint32_t *number)
{
    size_t before = *size;
    if (reserve((void **)known, size, (size_t)name + 1, sizeof(uint32_t)) < 0)
        return -1;
    memset(*known + before, 0, (*size - before) * sizeof(uint32_t));
    if ((*known)[name] == NO_TEXT) {
        PyObject *text = PyUnicode_FromFormat(format, PyList_GET_ITEM(names->texts, name));
        if (text == NULL || text_number(names, text, &(*known)[name]) < 0) {
            Py_XDECREF(text);
            return -1;
        }
        Py_DECREF(text);
    }
    *number = (*known)[name];
    return 0;
}

int
behind_text(Names *names, uint32_t name, uint32_t *number)
{
    return made_text(names, "behind %U", name, &names->behind, &names->behind_size, number);
}

int
waited_for_text(Names *names, uint32_t name, uint32_t *number)
{
    return made_text(names, "for %U", name, &names->waited_for, &names->waited_for_size, number);
}

/* The label of a run's ident, or of a site. The owner says whether it may be another later. */
int
label_of(Requests *self, double ident, uint32_t *number)
{
    uint32_t site = site_of(ident);
    *number = self->names.labels[site];
    if (*number != NO_TEXT)
        return 0;
    PyObject *text = NULL, *answer = PyObject_CallMethod(self->owner, "label_of", "I", site);
    int for_good = 0, result = -1;
    if (answer != NULL && PyArg_ParseTuple(answer, "Up", &text, &for_good) &&
        text_number(&self->names, text, number) == 0) {
        if (for_good)
            self->names.labels[site] = *number;
        result = 0;
    }
    Py_XDECREF(answer);
    return result;
}

/* What a task of this ident is: 0, REQUEST, CONNECTION; -1 with an error. */
int
kind_of_ident(Requests *self, double ident)
{
    uint32_t site = site_of(ident);
    uint8_t known = self->names.kinds[site];
    if (known != NOT_LOOKED_UP)
        return known;
    PyObject *answer = PyObject_CallMethod(self->owner, "kind_of", "I", site);
    long kind = answer != NULL ? PyLong_AsLong(answer) : -1;
    Py_XDECREF(answer);
    if (PyErr_Occurred())
        return -1;
    if (kind < 0 || kind >= NOT_LOOKED_UP) {
        PyErr_SetString(PyExc_ValueError, "no kind of task");
        return -1;
    }
    return self->names.kinds[site] = (uint8_t)kind;
}

int
names_init(Names *names)
{
    names->texts = PyList_New(0);
    names->numbers = PyDict_New();
    names->labels = PyMem_RawCalloc((size_t)SITE_LIMIT, sizeof(uint32_t));
    names->kinds = PyMem_RawMalloc((size_t)SITE_LIMIT);
    PyObject *none = PyUnicode_FromString(""), *other = PyUnicode_FromString("other");
    uint32_t number;
    int result = -1;
    if (names->labels == NULL || names->kinds == NULL)
        PyErr_NoMemory();
    else if (names->texts != NULL && names->numbers != NULL && none != NULL && other != NULL) {
        memset(names->kinds, NOT_LOOKED_UP, (size_t)SITE_LIMIT);
        if (text_number(names, none, &number) == 0 && text_number(names, other, &number) == 0)
            result = 0;
    }
    Py_XDECREF(none);
    Py_XDECREF(other);
    return result;
}

void
names_free(Names *names)
{
    Py_CLEAR(names->texts);
    Py_CLEAR(names->numbers);
    PyMem_Free(names->behind);
    PyMem_Free(names->waited_for);
    PyMem_RawFree(names->labels);
    PyMem_RawFree(names->kinds);
}
