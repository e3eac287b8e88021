/* NumPy's allocator for arrays in mapped files (NEP 49): state that is larger than the memory.
 *
 * (a) A file has no name: it ends with its array, or with the process, however that ends.
 * (b) Its blocks are reserved when it is made. A full disk is then an error here; with a sparse file it
 *     would be a signal at some later write, which ends the process.
 * (c) No descriptor stays open, as there may be thousands of arrays. On Windows handles do, where a file
 *     ends with its last one.
 * (d) A smaller array than `least` is ordinary memory: a file costs some system calls, and a page.
 * (e) Before each array is its Head, so that nothing need be known of it to free it. */
#ifndef CYOPTIM_FILE_MEMORY_H
#define CYOPTIM_FILE_MEMORY_H

#include <Python.h>
#include <numpy/arrayobject.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>
typedef wchar_t PathChar;
#else
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
typedef char PathChar;
#endif

enum { HEAD_ROOM = 64, FILE_HEAD_ROOM = 4096 };

typedef struct {
    size_t length; /* of the mapping; 0: ordinary memory */
    size_t size;   /* of the array */
#ifdef _WIN32
    HANDLE file, mapping;
#endif
} Head;

typedef struct {
    PyDataMem_Handler handler; /* first: the capsule points to it */
    PathChar *folder;
    size_t least;
    atomic_int error; /* of the last file that could not be made: errno, on Windows GetLastError() */
} FileMemory;

static inline Head *head_of(void *array)
{
    return (Head *)((char *)array - sizeof(Head));
}

#ifdef _WIN32

/* Map a new file; its Head's length stays 0 if that fails. */
static void *map_new_file(FileMemory *memory, size_t length, Head *head)
{
    wchar_t path[MAX_PATH + 1];
    void *base = NULL;
    LARGE_INTEGER end;
    end.QuadPart = (LONGLONG)length;
    if (GetTempFileNameW(memory->folder, L"cyo", 0, path) == 0) {
        atomic_store(&memory->error, (int)GetLastError());
        return NULL;
    }
    head->file = CreateFileW(path, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_ALWAYS,
                             FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE, NULL);
    if (head->file == INVALID_HANDLE_VALUE) {
        atomic_store(&memory->error, (int)GetLastError());
        DeleteFileW(path); /* made empty, for its name */
        return NULL;
    }
    /* A file that is not sparse gets its blocks with its size. */
    head->mapping = CreateFileMappingW(head->file, NULL, PAGE_READWRITE, (DWORD)end.HighPart, end.LowPart, NULL);
    if (head->mapping != NULL) base = MapViewOfFile(head->mapping, FILE_MAP_ALL_ACCESS, 0, 0, length);
    if (base != NULL) {
        head->length = length;
        return base;
    }
    atomic_store(&memory->error, (int)GetLastError());
    if (head->mapping != NULL) CloseHandle(head->mapping);
    CloseHandle(head->file);
    return NULL;
}

static void unmap(void *base, Head head)
{
    UnmapViewOfFile(base);
    CloseHandle(head.mapping);
    CloseHandle(head.file);
}

#else

/* A new file without a name; -1 if there can be none. */
static int open_nameless(const char *folder)
{
    static const char pattern[] = "/.cyoptim-XXXXXX";
    char *path;
    int fd = -1;
#ifdef O_TMPFILE
    fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) return fd;
#endif
    path = malloc(strlen(folder) + sizeof pattern);
    if (path == NULL) return -1;
    strcpy(path, folder);
    strcat(path, pattern);
    fd = mkstemp(path);
    if (fd >= 0) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        unlink(path);
    }
    free(path);
    return fd;
}

/* Give a file this length, with blocks on the disk; 0, or the error. */
static int reserve(int fd, size_t length)
{
    static const char zeros[65536];
    size_t done = 0;
#if defined(__APPLE__)
    fstore_t store = {F_ALLOCATEALL, F_PEOFPOSMODE, 0, (off_t)length, 0};
    if (fcntl(fd, F_PREALLOCATE, &store) == 0) return ftruncate(fd, (off_t)length) == 0 ? 0 : errno;
    if (errno == ENOSPC) return ENOSPC;
#else
    int error;
    do error = posix_fallocate(fd, 0, (off_t)length);
    while (error == EINTR);
    if (error != EOPNOTSUPP && error != EINVAL) return error;
#endif
    while (done < length) {
        size_t part = length - done < sizeof zeros ? length - done : sizeof zeros;
        ssize_t written = write(fd, zeros, part);
        if (written < 0 && errno != EINTR) return errno;
        if (written > 0) done += (size_t)written;
    }
    return 0;
}

static void *map_new_file(FileMemory *memory, size_t length, Head *head)
{
    void *base = MAP_FAILED;
    int fd = open_nameless(memory->folder), error = fd < 0 ? errno : reserve(fd, length);
    if (error == 0) {
        base = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        error = errno;
    }
    if (fd >= 0) close(fd);
    if (base == MAP_FAILED) {
        atomic_store(&memory->error, error);
        return NULL;
    }
    head->length = length;
    return base;
}

static void unmap(void *base, Head head)
{
    munmap(base, head.length);
}

#endif

/* New memory of zeros, or of anything if it is small and `zeros` is 0. */
static void *new_array(FileMemory *memory, size_t size, int zeros)
{
    Head head;
    char *base;
    size_t room = size < memory->least ? HEAD_ROOM : FILE_HEAD_ROOM;
    memset(&head, 0, sizeof head);
    head.size = size;
    if (size > (size_t)PY_SSIZE_T_MAX - room) return NULL;
    if (room == FILE_HEAD_ROOM) base = map_new_file(memory, room + size, &head);
    else base = zeros ? calloc(1, room + size) : malloc(room + size);
    if (base == NULL) return NULL;
    *head_of(base + room) = head;
    return base + room;
}

static void *file_memory_malloc(void *ctx, size_t size)
{
    return new_array(ctx, size, 0);
}

static void *file_memory_calloc(void *ctx, size_t count, size_t size)
{
    if (size != 0 && count > (size_t)PY_SSIZE_T_MAX / size) return NULL;
    return new_array(ctx, count * size, 1);
}

static void file_memory_free(void *ctx, void *array, size_t size)
{
    Head head;
    (void)ctx, (void)size;
    if (array == NULL) return;
    head = *head_of(array);
    if (head.length == 0) free((char *)array - HEAD_ROOM);
    else unmap((char *)array - FILE_HEAD_ROOM, head);
}

static void *file_memory_realloc(void *ctx, void *array, size_t size)
{
    void *moved = new_array(ctx, size, 0);
    if (moved != NULL && array != NULL) {
        size_t old = head_of(array)->size;
        memcpy(moved, array, old < size ? old : size);
        file_memory_free(ctx, array, old);
    }
    return moved;
}

static void file_memory_end(PyObject *capsule)
{
    FileMemory *memory = PyCapsule_GetPointer(capsule, "mem_handler");
    if (memory != NULL) {
        PyMem_Free(memory->folder);
        free(memory);
    }
}

/* NumPy's capsule of a new allocator. Every array keeps the one that it was made by. */
static PyObject *file_memory_new(PyObject *folder, size_t least)
{
    FileMemory *memory = calloc(1, sizeof *memory);
    PyObject *capsule, *bytes = NULL;
    if (memory == NULL) return PyErr_NoMemory();
#ifdef _WIN32
    memory->folder = PyUnicode_AsWideCharString(folder, NULL);
#else
    if (PyUnicode_FSConverter(folder, &bytes)) {
        const char *path = PyBytes_AsString(bytes);
        memory->folder = PyMem_Malloc(strlen(path) + 1);
        if (memory->folder != NULL) strcpy(memory->folder, path);
        else PyErr_NoMemory();
    }
    Py_XDECREF(bytes);
#endif
    memory->least = least;
    strcpy(memory->handler.name, "cyoptim_files");
    memory->handler.version = 1;
    memory->handler.allocator.ctx = memory;
    memory->handler.allocator.malloc = file_memory_malloc;
    memory->handler.allocator.calloc = file_memory_calloc;
    memory->handler.allocator.realloc = file_memory_realloc;
    memory->handler.allocator.free = file_memory_free;
    capsule = memory->folder == NULL ? NULL : PyCapsule_New(memory, "mem_handler", file_memory_end);
    if (capsule == NULL) {
        PyMem_Free(memory->folder);
        free(memory);
    }
    (void)bytes;
    return capsule;
}

/* The error of the last file that could not be made, which is then forgotten; 0 if there is none. */
static int file_memory_error(PyObject *capsule)
{
    FileMemory *memory = PyCapsule_GetPointer(capsule, "mem_handler");
    return memory == NULL ? 0 : atomic_exchange(&memory->error, 0);
}

/* Let new arrays of this thread come from an allocator, None for NumPy's own; return the one before. */
static PyObject *use_allocator(PyObject *capsule)
{
    return PyDataMem_SetHandler(capsule == Py_None ? NULL : capsule);
}

#endif
