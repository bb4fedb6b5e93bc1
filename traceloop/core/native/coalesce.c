/* Several writes of one callback leave together. A server writes the head of an answer and then its body; each send is
   a packet, and a packet costs several times what the copy of its bytes does.

   A write is held back only if another one is likely to follow at once: where the same descriptor's last two callbacks
   that wrote made the same number of writes, all of them within TOGETHER of their beginning. "Held back" means that
   the kernel has the bytes, with MSG_MORE: it sends them with the next write. If that does not come, they are sent when
   the callback ends. If it blocks, the kernel sends them with the peer's next acknowledgement, or after its timeout for
   sending again, which is 200 ms or more. So nothing is lost with the process, and the loop keeps no buffer.

   Only TCP: of SCTP, which has no TCP_CORK, the kernel would keep back what is held for good.

   What is known of a descriptor outlives its connection: the next one that has this number behaves alike, most of the
   time, and a wrong guess costs two system calls. */

#include "core.h"
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#define TOGETHER 0.001         /* s */
#define MOST_DESCRIPTORS 65536 /* of those above nothing is known */
#define LEAST 64

struct Writes {
    double run;            /* the beginning of the last callback that wrote */
    unsigned char made;    /* how many writes that one made, those that came too late left out */
    unsigned char before;  /* the one before it */
    unsigned char expected;
    unsigned char held;    /* the last one was held back */
};

static Writes *
writes_of(Scheduling *loop, int descriptor)
{
    if (descriptor >= loop->writes_size) {
        int size = loop->writes_size ? loop->writes_size : LEAST;
        while (size <= descriptor && size < MOST_DESCRIPTORS)
            size *= 2;
        Writes *writes = descriptor < size ? PyMem_Realloc(loop->writes, (size_t)size * sizeof(Writes)) : NULL;
        if (writes == NULL)
            return NULL;
        memset(writes + loop->writes_size, 0, (size_t)(size - loop->writes_size) * sizeof(Writes));
        loop->writes = writes;
        loop->writes_size = size;
    }
    return &loop->writes[descriptor];
}

/* 0 is the usual protocol of a stream: TCP, or one that holds nothing back. */
static int
may_hold(const Scheduling *loop, PyObject *sock)
{
    PyObject *number = PyObject_GetAttr(sock, loop->state->s_proto);
    long protocol = number == NULL ? -1 : PyLong_AsLong(number);
    Py_XDECREF(number);
    if (protocol == -1)
        PyErr_Clear();
    return protocol == 0 || protocol == IPPROTO_TCP;
}

int
coalesce_flag(Scheduling *loop, PyObject *sock, int descriptor)
{
    /* Only the end of a recorded callback sends what is held back. */
    Writes *writes = loop->run_handle == NULL ? NULL : writes_of(loop, descriptor);
    if (writes == NULL)
        return 0;
    if (writes->run != loop->run_start) {
        writes->run = loop->run_start;
        writes->expected = writes->made == writes->before ? writes->made : 1;
        writes->before = writes->made;
        writes->made = 0;
    }
    if (writes->made < UCHAR_MAX)
        writes->made++;
    if (writes->made > 1 && core_now() - loop->run_start > TOGETHER)
        writes->made = writes->expected = 1;
    writes->held = 0;
    if (writes->made >= writes->expected)
        return 0;
    if (loop->held_count == 0 || loop->held[loop->held_count - 1] != descriptor) {
        if (loop->held_count == MOST_HELD || !may_hold(loop, sock))
            return 0;
        loop->held[loop->held_count++] = descriptor;
    }
    writes->held = 1;
    return MSG_MORE;
}

/* Sends what the kernel holds back. Errors are the next write's, or the reader's: a descriptor that was closed
   meanwhile has sent it, and one that is no TCP socket never held anything. */
static void
push(int descriptor)
{
    int corked = 1;
    socklen_t size = sizeof corked;
    if (getsockopt(descriptor, IPPROTO_TCP, TCP_CORK, &corked, &size) < 0 || corked)
        return; /* the program has corked it itself */
    setsockopt(descriptor, IPPROTO_TCP, TCP_CORK, &corked, sizeof corked);
}

void
coalesce_end(Scheduling *loop)
{
    while (loop->held_count > 0) {
        int descriptor = loop->held[--loop->held_count];
        if (loop->writes[descriptor].held) {
            loop->writes[descriptor].held = 0;
            push(descriptor);
        }
    }
}
