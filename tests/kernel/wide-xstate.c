// SPDX-License-Identifier: Apache-2.0
//
// A ptrace(2) for user-mode Linux 6.1, put before the C library's by LD_PRELOAD. That kernel keeps a process's extended registers
// (NT_X86_XSTATE) in a buffer of fixed size, and ends at once on processors whose state is larger (those with AMX tiles), where Linux
// takes the whole state or nothing. Here it gets the whole, without tiles: nobody in there has asked for any.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

static unsigned char whole[1 << 16];  // the kernel has one thread that traces

long ptrace(enum __ptrace_request request, ...) {
    static long (*next)(enum __ptrace_request, ...);
    if (!next)
        next = (long (*)(enum __ptrace_request, ...))dlsym(RTLD_NEXT, "ptrace");
    va_list arguments;
    va_start(arguments, request);
    const int pid = va_arg(arguments, int);
    void* address = va_arg(arguments, void*);
    void* data = va_arg(arguments, void*);
    va_end(arguments);
    if (request != PTRACE_SETREGSET || (long)address != NT_X86_XSTATE)
        return next(request, pid, address, data);

    const struct iovec* known = data;
    static size_t size;
    if (size == 0) {
        struct iovec state = {whole, sizeof whole};
        if (next(PTRACE_GETREGSET, pid, address, &state) != 0)
            return -1;
        size = state.iov_len;
        memset(whole, 0, size);
    }
    if (known->iov_len > size) {
        errno = EFAULT;
        return -1;
    }
    // The header behind the 512 bytes of the legacy state says which parts are in use.
    memcpy(whole, known->iov_base, known->iov_len);
    struct iovec state = {whole, size};
    return next(request, pid, address, &state);
}
