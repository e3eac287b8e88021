/* The allocator of mapped files, tried on Windows or Wine without Python: tools/check_other_systems.sh. It
 * prints what is wrong, and its exit status is how much that is. */
#include "file_memory.h"

#include <stdio.h>

/* What file_memory.h takes of Python and NumPy, none of which is called here. */
void **PyArray_API;
PyObject _Py_NoneStruct;
PyObject *PyErr_NoMemory(void) { return NULL; }
wchar_t *PyUnicode_AsWideCharString(PyObject *text, Py_ssize_t *size) { (void)text, (void)size; return NULL; }
void PyMem_Free(void *memory) { (void)memory; }
PyObject *PyCapsule_New(void *held, const char *name, PyCapsule_Destructor end) { (void)held, (void)name, (void)end; return NULL; }
void *PyCapsule_GetPointer(PyObject *capsule, const char *name) { (void)capsule, (void)name; return NULL; }

static const size_t MiB = 1 << 20;
static const wchar_t FOLDER[] = L"file_memory_folder";
static FileMemory memory;
static int wrong;

static void check(int right, const char *what)
{
    if (!right) printf("wrong: %s\n", what), wrong++;
}

/* How many files the folder has. */
static int files(void)
{
    WIN32_FIND_DATAW found;
    int count = 0;
    HANDLE search = FindFirstFileW(L"file_memory_folder\\*", &found);
    if (search == INVALID_HANDLE_VALUE) return -1;
    do count += !(found.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY);
    while (FindNextFileW(search, &found));
    FindClose(search);
    return count;
}

int main(void)
{
    char *zeros, *small, *large;
    size_t i;
    memory.folder = (PathChar *)FOLDER;
    memory.least = MiB;
    CreateDirectoryW(FOLDER, NULL);
    zeros = file_memory_calloc(&memory, 3 * MiB, 1);
    small = file_memory_malloc(&memory, 1000);
    large = file_memory_malloc(&memory, 5 * MiB);
    if (zeros == NULL || small == NULL || large == NULL) return printf("no memory: %d\n", memory.error), 99;
    check(files() == 2, "each large array has a file");
    for (i = 0; i < 3 * MiB && zeros[i] == 0; i++) {}
    check(i == 3 * MiB, "new files are zeros");
    memset(zeros, 7, 3 * MiB);
    memset(small, 8, 1000);
    memset(large, 9, 5 * MiB);
    zeros = file_memory_realloc(&memory, zeros, 6 * MiB);
    small = file_memory_realloc(&memory, small, 2 * MiB);
    check(zeros[0] == 7 && zeros[3 * MiB - 1] == 7 && small[999] == 8, "a grown array keeps its bytes");
    check((size_t)zeros % 64 == 0, "arrays are aligned");
    check(files() == 3, "a grown array has one file");
    file_memory_free(&memory, zeros, 6 * MiB);
    file_memory_free(&memory, small, 2 * MiB);
    check(files() == 1, "a file ends with its array");
    check(memory.error == 0, "nothing has failed yet");
    check(file_memory_malloc(&memory, (size_t)1 << 50) == NULL && memory.error != 0, "no disk holds a PiB");
    check(files() == 1, "a file that could not be made is gone");
    memory.error = 0;
    memory.folder = L"no such folder";
    check(file_memory_malloc(&memory, 2 * MiB) == NULL && memory.error != 0, "a folder that is none");
    file_memory_free(&memory, large, 5 * MiB);
    check(files() == 0, "files end");
    memory.folder = (PathChar *)FOLDER;
    check(file_memory_malloc(&memory, 2 * MiB) != NULL, "a file that ends with the process");
    return wrong;
}
