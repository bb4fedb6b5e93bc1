/* From a callback to its ident, and what a C task shows of itself: the twin of what recorded_iteration.py has written
   out. What is seen for the first time, or is rare, is asked of the recorder's Python. */

#include "core.h"

/* -- what a run of the loop has at hand */

static PyObject *
attribute(PyObject *object, const char *name)
{
    return object == NULL ? NULL : PyObject_GetAttrString(object, name);
}

int
run_open(Run *run, Scheduling *loop, PyObject *recorder)
{
    memset(run, 0, sizeof(*run));
    run->st = loop->state;
    run->loop = loop;
    run->clock.counts = run->st->clock_counts;
    run->recorder = recorder;
    run->codes = run->few_codes;
    run->code_places = FEW_CODES;
    if (loop->record == NULL)
        return 0;
    run->record = (Record *)Py_NewRef((PyObject *)loop->record);
    run->tasks = attribute(recorder, "tasks");
    PyObject *fresh = attribute(run->tasks, "fresh");
    if (fresh == NULL)
        return -1;
    if (!Py_IS_TYPE(fresh, run->st->queue_type)) {
        Py_DECREF(fresh);
        return 0;
    }
    run->fresh = (ReadyQueue *)fresh;
    run->spans = attribute(recorder, "spans");
    run->created = attribute(run->tasks, "created");
    run->stamps = attribute(recorder, "stamps");
    run->sites = attribute(recorder, "sites");
    run->builtin_sites = attribute(recorder, "builtin_sites");
    PyObject *names = attribute(recorder, "span_names");
    run->by_handler = attribute(names, "by_handler");
    Py_XDECREF(names);
    run->identify = attribute(recorder, "identify");
    run->define = attribute(run->tasks, "define");
    PyObject *next_number = attribute(run->tasks, "next_number");
    run->numbers = attribute(next_number, "__self__"); /* called as a method it takes three times as long */
    Py_XDECREF(next_number);
    run->first_step_done = attribute(run->tasks, "first_step_done");
    run->outcome_of = attribute(run->tasks, "outcome_of");
    run->coroutine_site = attribute(run->tasks, "coroutine_site");
    run->define_created = attribute(run->tasks, "define_created");
    run->stamped = attribute(recorder, "stamped");
    run->flush = attribute(recorder, "flush");
    run->write = attribute(recorder, "write");
    run->changed = attribute(run->spans, "changed");
    PyObject *words = attribute(recorder, "words");
    if (words == NULL || PyErr_Occurred()) {
        Py_XDECREF(words);
        return -1;
    }
    if (PyObject_GetBuffer(words, &run->words, PyBUF_WRITABLE | PyBUF_FORMAT | PyBUF_STRIDES) < 0) {
        Py_DECREF(words);
        return -1;
    }
    Py_DECREF(words);
    if (!PyDict_Check(run->stamps) || !PyDict_Check(run->sites) || !PyDict_Check(run->builtin_sites) ||
        !PyIter_Check(run->numbers) || !PyList_Check(run->created) ||
        run->words.itemsize != (Py_ssize_t)sizeof(double) ||
        run->words.len < 64 * (Py_ssize_t)sizeof(double))
        return 0;
    run_find_spans(run);
    PyObject *variable = PyObject_CallMethod(run->spans, "refresh", NULL);
    if (variable == NULL)
        return -1;
    Py_DECREF(variable);
    return run_refresh_spans(run) < 0 ? -1 : 1;
}

void
run_close(Run *run)
{
    run_forget_codes(run);
    if (run->codes != run->few_codes)
        PyMem_Free(run->codes);
    run_forget_contexts(run);
    PyObject **owned[] = {&run->tasks,      &run->spans,          &run->created,        &run->stamps,  &run->sites,
                          &run->builtin_sites, &run->identify,    &run->define,         &run->numbers,
                          &run->first_step_done, &run->outcome_of, &run->coroutine_site, &run->define_created,
                          &run->stamped,    &run->flush,          &run->write,          &run->changed,
                          &run->span_variable, &run->seen, &run->by_handler, (PyObject **)&run->context_type};
    for (size_t i = 0; i < sizeof(owned) / sizeof(owned[0]); i++)
        Py_CLEAR(*owned[i]);
    Py_CLEAR(run->record);
    Py_CLEAR(run->fresh);
    if (run->words.obj != NULL)
        PyBuffer_Release(&run->words);
}

void
run_forget_codes(Run *run)
{
    if (run->codes_held <= LISTED_CODES)
        for (size_t i = 0; i < run->codes_held; i++)
            Py_CLEAR(run->listed[i]->code);
    else
        for (size_t i = 0; i < run->code_places; i++)
            Py_CLEAR(run->codes[i].code);
    run->codes_held = 0;
}

static int
add_to(PyObject *object, const char *name, long count)
{
    PyObject *before = PyObject_GetAttrString(object, name);
    long long value = before == NULL ? -1 : PyLong_AsLongLong(before);
    Py_XDECREF(before);
    if (value == -1 && PyErr_Occurred())
        return -1;
    PyObject *after = PyLong_FromLongLong(value + count);
    int done = after == NULL ? -1 : PyObject_SetAttrString(object, name, after);
    Py_XDECREF(after);
    return done;
}

int
run_settle_counts(Run *run)
{
    long made = run->made, finished = run->finished;
    run->made = run->finished = 0;
    if (made != 0 && add_to(run->tasks, "made", made) < 0)
        return -1;
    return finished == 0 ? 0 : add_to(run->tasks, "finished", finished);
}

int
run_refresh_spans(Run *run)
{
    PyObject *variable = PyObject_GetAttrString(run->spans, "variable");
    if (variable == NULL)
        return -1;
    if (!PyContextVar_CheckExact(variable))
        Py_CLEAR(variable);
    if (variable != run->span_variable)
        run_forget_contexts(run);
    Py_XSETREF(run->span_variable, variable);
    return 0;
}

/* -- callbacks */

static double
as_double(PyObject *number) /* steals it */
{
    if (number == NULL)
        return -1.0;
    double value = PyFloat_CheckExact(number) ? PyFloat_AS_DOUBLE(number) : PyFloat_AsDouble(number);
    Py_DECREF(number);
    return value;
}

/* What the recorder calls it; a task's step where that is what it finds. */
static double
ask(Run *run, PyObject *callback, PyObject **task)
{
    double ident = as_double(PyObject_CallOneArg(run->identify, callback));
    if (ident >= SITE_LIMIT) {
        *task = PyObject_GetAttrString(callback, "__self__");
        if (*task == NULL)
            PyErr_Clear();
    }
    return ident;
}

/* Codes lie at like distances: their addresses are mixed, or most places would stay empty. */
static CodeSite *
place_of(const Run *run, PyObject *code)
{
    uint64_t mixed = (uint64_t)(uintptr_t)code * 0x9E3779B97F4A7C15u;
    return &run->codes[(mixed >> 40) & (run->code_places - 1)];
}

/* Four times as many places for codes, where a program has so many that they take one another's. */
static void
add_places(Run *run)
{
    CodeSite *before = run->codes, *more = NULL;
    size_t places = run->code_places;
    run->codes_evicted = 0;
    if (places < MOST_CODES)
        more = PyMem_Calloc(4 * places, sizeof(CodeSite));
    if (more == NULL)
        return; /* the places that there are will do */
    run->codes = more;
    run->code_places = 4 * places;
    run->codes_held = LISTED_CODES + 1; /* ``listed`` points to where they were */
    for (size_t i = 0; i < places; i++)
        if (before[i].code != NULL)
            *place_of(run, before[i].code) = before[i]; /* no two meet: they did not in fewer places */
    if (before != run->few_codes)
        PyMem_Free(before);
}

/* The site of a code object; 0.0 where it is not known yet, -1.0 with an exception. */
static double
site_of_code(Run *run, PyObject *code)
{
    CodeSite *place = place_of(run, code);
    if (place->code == code)
        return place->ident;
    PyObject *key = PyLong_FromVoidPtr(code);
    if (key == NULL)
        return -1.0;
    PyObject *found = PyDict_GetItemWithError(run->sites, key);
    Py_DECREF(key);
    if (found == NULL)
        return PyErr_Occurred() ? -1.0 : 0.0;
    double ident = PyFloat_AsDouble(found);
    if (place->code != NULL && ++run->codes_evicted > run->code_places) {
        add_places(run);
        place = place_of(run, code);
    }
    if (place->code == NULL) {
        if (run->codes_held < LISTED_CODES)
            run->listed[run->codes_held] = place;
        run->codes_held++;
    }
    Py_XSETREF(place->code, Py_NewRef(code));
    place->ident = ident;
    return ident;
}

static double
ident_of_function(Run *run, PyObject *function, PyObject *callback, PyObject **task)
{
    double ident = site_of_code(run, PyFunction_GET_CODE(function));
    return ident != 0.0 ? ident : ask(run, callback, task);
}

/* Cython gives its functions a code object too (core/site_of.py). */
static int
is_of_cython(PyObject *function)
{
    const char *name = strrchr(Py_TYPE(function)->tp_name, '.');
    return strcmp(name == NULL ? Py_TYPE(function)->tp_name : name + 1, "cython_function_or_method") == 0;
}

/* Of what is called in the end: by ``callback`` itself, or by the method or the partial that it is. */
static double
ident_of_called(Run *run, PyObject *called, PyObject *callback, PyObject **task)
{
    if (PyFunction_Check(called))
        return ident_of_function(run, called, callback, task);
    if (!is_of_cython(called))
        return ask(run, callback, task);
    PyObject *code = PyObject_GetAttr(called, run->st->s_code);
    if (code == NULL)
        PyErr_Clear();
    double ident = code != NULL && PyCode_Check(code) ? site_of_code(run, code) : 0.0;
    Py_XDECREF(code);
    return ident != 0.0 ? ident : ask(run, callback, task);
}

/* -- tasks */

static inline PyObject *
get(PyGetSetDef *getset, PyObject *object)
{
    return getset->get(object, getset->closure);
}

typedef struct {
    int place, visited;
    PyObject *found; /* borrowed */
} NameVisit;

static int
visit_name(PyObject *object, void *arg)
{
    NameVisit *visit = arg;
    if (visit->visited++ != visit->place)
        return 0;
    visit->found = object;
    return 1;
}

/* Of a plain task: its name. ``or_number``: the number of an automatic name whose text was not asked for yet will do
   (from 3.12 on). */
static int
note_name(Run *run, PyObject *task, int or_number)
{
    core_state *st = run->st;
    PyObject *name = NULL;
    if (or_number && st->name_place > 0) {
        NameVisit visit = {st->name_place, 0, NULL};
        Py_TYPE(task)->tp_traverse(task, visit_name, &visit);
        if (visit.found != NULL && (PyUnicode_Check(visit.found) || PyLong_Check(visit.found)))
            name = Py_NewRef(visit.found);
    }
    if (name == NULL)
        name = st->task_name != NULL ? st->task_name->ml_meth(task, NULL)
                                     : PyObject_CallMethodNoArgs(task, st->s_get_name);
    if (name != NULL && PyUnicode_Check(name) && PyUnicode_GET_LENGTH(name) == 0)
        Py_SETREF(name, PyUnicode_FromString(" "));
    int done = name == NULL ? -1 : PyList_Append(run->record->text, name);
    Py_XDECREF(name);
    return done;
}

/* The number goes with the task. */
static int
note_ident(core_state *st, PyObject *task, double ident)
{
    PyObject *number = PyFloat_FromDouble(ident);
    int done = number == NULL ? -1 : PyObject_SetAttr(task, st->s_loop_ident, number);
    Py_XDECREF(number);
    return done;
}

/* ``_loop_ident`` in the dict of a plain task, borrowed; NULL where there is none, perhaps with an exception. Mostly it
   is the only item: a search takes five times as long. */
static PyObject *
noted_ident(core_state *st, PyObject *dict)
{
    PyObject *name, *number;
    Py_ssize_t place = 0;
    if (PyDict_Next(dict, &place, &name, &number) && name == st->s_loop_ident)
        return number;
    return PyDict_GetItemWithError(dict, st->s_loop_ident);
}

/* A new number, and the site of its coroutine. */
static double
new_ident(Run *run, PyObject *task)
{
    core_state *st = run->st;
    double number = as_double(PyIter_Next(run->numbers));
    if (number < 0.0)
        return -1.0;
    double site = 0.0;
    PyObject *coro = Py_IS_TYPE(task, st->task_type) ? get(st->task_coro, task)
                                                     : PyObject_CallMethodNoArgs(task, st->s_get_coro);
    if (coro != NULL) {
        PyObject *code;
        if (!PyCoro_CheckExact(coro)) /* one that Cython has compiled has it too */
            code = PyObject_GetAttr(coro, st->s_cr_code);
        else if (st->coro_code_at > 0)
            code = Py_XNewRef(SLOT(coro, st->coro_code_at));
        else
            code = Py_TYPE(st->coro_code)->tp_descr_get(st->coro_code, coro, (PyObject *)&PyCoro_Type);
        site = code != NULL && PyCode_Check(code) ? site_of_code(run, code) : -1.0;
        Py_XDECREF(code);
    }
    Py_XDECREF(coro);
    if (coro == NULL || site < 0.0)
        PyErr_Clear();
    if (site <= 0.0)
        site = as_double(PyObject_CallOneArg(run->coroutine_site, task));
    return site < 0.0 ? -1.0 : number + site;
}

/* A task that create_task made takes its first step. */
static double
first_ident(Run *run, PyObject *task)
{
    Py_DECREF(queue_popleft(run->fresh)); /* the step holds it too */
    run->made++;
    return new_ident(run, task);
}

static int
is_fresh(const ReadyQueue *fresh, const PyObject *task)
{
    for (Py_ssize_t i = 0; i < fresh->length; i++)
        if (fresh->items[(fresh->head + i) & (fresh->size - 1)] == task)
            return 1;
    return 0;
}

/* Announces a task that create_task has not made, as eager ones are, or whose first step comes out of order. */
static double
define_task(Run *run, PyObject *task)
{
    if (!Py_IS_TYPE(task, run->st->task_type) || is_fresh(run->fresh, task))
        return as_double(PyObject_CallOneArg(run->define, task));
    double ident = new_ident(run, task);
    if (ident < 0.0 || note_ident(run->st, task, ident) < 0 || note_name(run, task, 0) < 0)
        return -1.0;
    record_add(run->record, ident, R_TASK, 0.0);
    run->made++;
    return ident;
}

static double
ident_of_known_task(Run *run, PyObject *task)
{
    core_state *st = run->st;
    PyObject *number = NULL;
    if (Py_IS_TYPE(task, st->task_type)) {
        Py_ssize_t offset = st->task_type->tp_dictoffset; /* -1 from 3.12 on: the interpreter manages it */
        PyObject *dict = offset > 0 ? Py_XNewRef(SLOT(task, offset)) : PyObject_GenericGetDict(task, NULL);
        number = dict == NULL ? NULL : Py_XNewRef(noted_ident(st, dict));
        Py_XDECREF(dict);
    }
    else
        number = PyObject_GetAttr(task, st->s_loop_ident);
    if (number == NULL) {
        if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_AttributeError))
            return -1.0;
        PyErr_Clear();
        return define_task(run, task);
    }
    return as_double(number);
}

static double
ident_of_builtin(Run *run, PyObject *callback, PyObject **task)
{
    core_state *st = run->st;
    PyMethodDef *method = ((PyCFunctionObject *)callback)->m_ml;
    PyObject *owner = PyCFunction_GET_SELF(callback);
    if (owner == NULL)
        return ask(run, callback, task);
    PyTypeObject *type = Py_TYPE(owner);
    if (method == st->wakeup ||
        (st->wakeup == NULL && PyObject_TypeCheck(owner, st->task_type) &&
         strcmp(method->ml_name, "task_wakeup") == 0)) {
        st->wakeup = method;
        *task = Py_NewRef(owner);
        return ident_of_known_task(run, owner);
    }
    MethodSite *place = &run->methods[(((uintptr_t)method >> 4) ^ ((uintptr_t)type >> 4)) & (METHODS - 1)];
    if (place->type == type && place->method == method)
        return place->ident;
    double ident = ask(run, callback, task);
    if (ident < 0.0 || *task != NULL)
        return ident;
    /* Only types that the recorder holds: another one could come to the same address. */
    int held = PyDict_Contains(run->builtin_sites, (PyObject *)type);
    if (held < 0)
        return -1.0;
    if (held)
        *place = (MethodSite){type, method, ident};
    return ident;
}

/* -- who runs */

double
run_identify(Run *run, PyObject *handle, PyObject *callback, PyObject **task, int *is_first)
{
    core_state *st = run->st;
    PyTypeObject *type = Py_TYPE(callback);
    if (type == st->step_type) {
        PyObject *self = *task = get(st->step_self, callback);
        if (self == NULL)
            return -1.0;
        if (Py_IS_TYPE(handle, st->handle_type) && *core_noted_ident(st, handle) != 0.0)
            return *core_noted_ident(st, handle);
        if (run->fresh->length > 0 && run->fresh->items[run->fresh->head] == self) {
            *is_first = 1;
            return first_ident(run, self);
        }
        return ident_of_known_task(run, self);
    }
    if (type == &PyFunction_Type)
        return ident_of_function(run, callback, callback, task);
    if (type == &PyCFunction_Type || type == st->method_type)
        return ident_of_builtin(run, callback, task);
    if (type == &PyMethod_Type)
        return ident_of_called(run, PyMethod_GET_FUNCTION(callback), callback, task);
    if (type != st->partial_type)
        return ident_of_called(run, callback, callback, task);
    PyObject *function = PyObject_GetAttr(callback, st->s_func);
    if (function == NULL) {
        PyErr_Clear();
        return ask(run, callback, task);
    }
    PyObject *called = Py_IS_TYPE(function, &PyMethod_Type) ? PyMethod_GET_FUNCTION(function) : function;
    double ident = ident_of_called(run, called, callback, task);
    Py_DECREF(function);
    return ident;
}

static int
is_text(PyObject *text, PyObject *other)
{
    return text == other || (text != NULL && PyUnicode_Check(text) && PyUnicode_Compare(text, other) == 0);
}

static double
settle_plain(Run *run, PyObject *task, double ident, int is_first)
{
    core_state *st = run->st;
    double added = 0.0;
    if (is_first) {
        if (note_name(run, task, 1) < 0)
            return -1.0;
        added = FIRST;
    }
    else if (run->loop->run_again)
        return 0.0;
    PyObject *state = get(st->task_state, task);
    if (state == NULL)
        return -1.0;
    int finished = state == st->finished, pending = !finished && is_text(state, st->pending);
    finished = finished || (!pending && is_text(state, st->finished));
    Py_DECREF(state);
    if (pending) {
        return is_first && note_ident(st, task, ident) < 0 ? -1.0 : added;
    }
    run->finished++;
    if (finished) {
        PyObject *exception = get(st->task_exception, task);
        int failed = exception != Py_None;
        Py_XDECREF(exception);
        if (exception == NULL)
            return -1.0;
        if (!failed)
            return added + OUTCOME_RESULT;
    }
    double outcome = as_double(PyObject_CallOneArg(run->outcome_of, task));
    return outcome < 0.0 ? -1.0 : added + outcome;
}

double
run_settle_task(Run *run, PyObject *task, double ident, int is_first)
{
    core_state *st = run->st;
    if (Py_IS_TYPE(task, st->task_type))
        return settle_plain(run, task, ident, is_first);
    if (is_first) {
        /* It counts by itself those that are done. */
        PyObject *number = PyFloat_FromDouble(ident);
        PyObject *added =
            number == NULL ? NULL : PyObject_CallFunctionObjArgs(run->first_step_done, task, number, NULL);
        Py_XDECREF(number);
        return as_double(added);
    }
    PyObject *done = PyObject_CallMethodNoArgs(task, st->s_done);
    int is_done = done == NULL ? -1 : PyObject_IsTrue(done);
    Py_XDECREF(done);
    if (is_done <= 0)
        return is_done < 0 ? -1.0 : 0.0;
    run->finished++;
    return as_double(PyObject_CallOneArg(run->outcome_of, task));
}

/* -- the loop's own work */

#define LONG_SECONDS 0.01

int
run_tell_own_work(Run *run, int which, Py_ssize_t count, double start, double end)
{
    if (end - start < LONG_SECONDS)
        return 0;
    PyObject *done = PyObject_CallMethod(run->recorder, "own_work", "indd", which, count, start, end);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int
run_show_own_work(Run *run, int which, double start)
{
    Scheduling *loop = run->loop;
    if (loop->run_ident == 0.0) {
        PyObject *ident = PyObject_CallMethod(run->recorder, "own_work_ident", "i", which);
        double value = ident == NULL ? -1.0 : PyFloat_AsDouble(ident);
        Py_XDECREF(ident);
        if (value == -1.0 && PyErr_Occurred())
            return -1;
        loop->run_start = start;
        loop->run_ident = value;
    }
    Py_BEGIN_ALLOW_THREADS;
    Py_END_ALLOW_THREADS;
    return 0;
}
