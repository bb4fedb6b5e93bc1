/* Small files of the kernel (/proc, control groups), read without giving the GIL away.
 *
 * For the watchdog, while a loop is blocked. Each open, read and close of Python's gives the GIL to the loop's thread,
 * which keeps it for 5 ms and more, or for as long as a C call lasts: a look of forty such steps takes seconds then,
 * and what ran at its beginning is over. The kernel makes these files out of this process's memory, in microseconds. No
 * other file may be read so: a disk may be slow, and a control group's statistics wait for a lock of the whole machine.
 */

#include "core.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { READ_AT_MOST = 4096 };

PyObject *
core_read_kernel_file(PyObject *module, PyObject *path)
{
    PyObject *encoded;
    if (!PyUnicode_FSConverter(path, &encoded)) /* a null byte in it, no string */
        return NULL;
    int descriptor = open(PyBytes_AS_STRING(encoded), O_RDONLY | O_CLOEXEC);
    int failed = errno;
    Py_DECREF(encoded);
    char found[READ_AT_MOST];
    ssize_t size = -1;
    if (descriptor >= 0) {
        size = read(descriptor, found, sizeof found);
        failed = errno;
        close(descriptor);
    }
    if (size < 0) {
        errno = failed;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBytes_FromStringAndSize(found, size);
}

PyObject *
core_list_threads(PyObject *module, PyObject *unused)
{
    DIR *folder = opendir("/proc/self/task");
    if (folder == NULL)
        return PyErr_SetFromErrno(PyExc_OSError);
    PyObject *threads = PyList_New(0);
    const struct dirent *entry;
    while (threads != NULL && (entry = readdir(folder)) != NULL) {
        long number = strtol(entry->d_name, NULL, 10);
        if (number <= 0)
            continue; /* . and .. */
        PyObject *thread = PyLong_FromLong(number);
        if (thread == NULL || PyList_Append(threads, thread) < 0)
            Py_CLEAR(threads);
        Py_XDECREF(thread);
    }
    closedir(folder);
    return threads;
}
