/* The part of DLPack 1.x that lets a tensor library hand out a borrowed view of a tensor by one C
 * call, without a Python method call (dlpack.h, DLPackExchangeAPI). Field order and types are the
 * binary interface. Since torch 2.10 torch.Tensor offers it. */
#ifndef CYOPTIM_DLPACK_EXCHANGE_H
#define CYOPTIM_DLPACK_EXCHANGE_H

#include <stdint.h>

enum { DL_CPU = 1, DL_FLOAT = 2, DL_BFLOAT = 4, DL_COMPLEX = 5, DL_MAJOR = 1 };

typedef struct {
    void *data;
    int32_t device_type;
    int32_t device_id;
    int32_t ndim;
    uint8_t type_code;
    uint8_t type_bits;
    uint16_t type_lanes;
    int64_t *shape;
    int64_t *strides; /* in elements; may be NULL for C order */
    uint64_t byte_offset;
} BorrowedTensor;

typedef int (*BorrowFunction)(void *object, BorrowedTensor *out);

typedef struct {
    uint32_t major;
    uint32_t minor;
    void *previous;
    void *allocate;
    void *managed_from_object;
    void *managed_to_object;
    BorrowFunction borrow; /* may be NULL */
    void *current_stream;
} ExchangeTable;

#endif
