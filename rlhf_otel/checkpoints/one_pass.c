/* Sums, extremes and zeros of bfloat16 numbers in one pass over their codes.
 *
 * A bfloat16 is the upper half of a single-precision number, so that a word of two codes holds two of them: one after a
 * shift, one after a mask. Extremes and zeros are found in the codes themselves, which tell NaN and infinity as well: their
 * magnitudes are the largest. Nothing here knows what a file holds: it sees flat buffers, and bytes of a file that it reads into
 * one. deploy/build_kernel.py compiles it. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "codes on disk are little-endian, and are read as they are"
#endif

/* One function for each level of the processor, chosen when the module is loaded: by GCC on Linux, elsewhere there is one. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

/* Bytes that stay in the first cache between the two passes over them. Their 4096 codes are summed in single precision, and
 * their zeros counted in 16 bits. */
#define BLOCK 8192

typedef struct {
    double sum, square;
    int16_t highest_signed;              /* the largest number, unless all are negative */
    uint16_t highest_unsigned;           /* the lowest number, unless all are positive */
    uint16_t lowest_unsigned;            /* the number next to zero where all have one sign */
    Py_ssize_t zeros;
} Found;

static inline float number(uint32_t bits) {
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

static inline uint32_t word(const unsigned char *codes, size_t position) {
    uint32_t result;
    memcpy(&result, codes + 4 * position, sizeof result);
    return result;
}

static inline uint16_t code(const unsigned char *codes, size_t position) {
    uint16_t result;
    memcpy(&result, codes + 2 * position, sizeof result);
    return result;
}

FOR_EACH_PROCESSOR
static void add_sums(Found *found, const unsigned char *codes, size_t words) {
    /* Several sums at once: each addition has to wait for the one before it. */
    float a = 0, b = 0, c = 0, d = 0, aa = 0, bb = 0, cc = 0, dd = 0;
    size_t half = words / 2;
    for (size_t i = 0; i < half; i++) {
        uint32_t one = word(codes, i), other = word(codes, i + half);
        float p = number(one << 16), q = number(one & 0xffff0000u);
        float r = number(other << 16), s = number(other & 0xffff0000u);
        a += p, b += q, c += r, d += s;
        aa += p * p, bb += q * q, cc += r * r, dd += s * s;
    }
    if (words % 2) {
        float p = number(word(codes, words - 1) << 16), q = number(word(codes, words - 1) & 0xffff0000u);
        a += p, b += q, aa += p * p, bb += q * q;
    }
    found->sum += (double)a + b + c + d;
    found->square += (double)aa + bb + cc + dd;
}

FOR_EACH_PROCESSOR
static void add_codes(Found *found, const unsigned char *codes, size_t count) {
    int16_t highest_signed = found->highest_signed;
    uint16_t highest = found->highest_unsigned, lowest = found->lowest_unsigned, zeros = 0;
    for (size_t i = 0; i < count; i++) {
        uint16_t each = code(codes, i);
        highest_signed = (int16_t)each > highest_signed ? (int16_t)each : highest_signed;
        highest = each > highest ? each : highest;
        lowest = each < lowest ? each : lowest;
        zeros += (uint16_t)(each << 1) == 0;
    }
    found->highest_signed = highest_signed;
    found->highest_unsigned = highest;
    found->lowest_unsigned = lowest;
    found->zeros += zeros;
}

static const Found NOTHING = {0, 0, INT16_MIN, 0, UINT16_MAX, 0};

static void add(Found *found, const unsigned char *codes, size_t bytes) {
    for (size_t start = 0; start < bytes; start += BLOCK) {
        size_t size = bytes - start < BLOCK ? bytes - start : BLOCK;
        add_sums(found, codes + start, size / 4);
        add_codes(found, codes + start, size / 2);
    }
    if (bytes % 4) {
        double last = number((uint32_t)code(codes, bytes / 2 - 1) << 16);
        found->sum += last;
        found->square += last * last;
    }
}

static PyObject *told(const Found *found) {
    uint32_t low = found->highest_unsigned >= 0x8000 ? found->highest_unsigned : found->lowest_unsigned;
    uint32_t high = found->highest_signed >= 0 ? (uint16_t)found->highest_signed : found->lowest_unsigned;
    return Py_BuildValue(
        "ddddn", found->sum, found->square, (double)number(low << 16), (double)number(high << 16), found->zeros);
}

static PyObject *refused(void) {
    PyErr_SetString(PyExc_ValueError, "a positive number of whole codes of two bytes is needed");
    return NULL;
}

static PyObject *bf16(PyObject *module, PyObject *codes) {
    Py_buffer view;
    Found found = NOTHING;
    (void)module;
    if (PyObject_GetBuffer(codes, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    Py_ssize_t bytes = view.len;
    if (bytes > 0 && bytes % 2 == 0) {
        Py_BEGIN_ALLOW_THREADS
        add(&found, view.buf, (size_t)bytes);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    return bytes > 0 && bytes % 2 == 0 ? told(&found) : refused();
}

/* Fills a buffer; returns 0, an error's number, or -1 where the file ends before. */
static int filled(int descriptor, off_t start, unsigned char *room, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t count = pread(descriptor, room + done, bytes - done, start + (off_t)done);
        if (count == 0)
            return -1;
        if (count < 0 && errno != EINTR)
            return errno;
        done += count > 0 ? (size_t)count : 0;
    }
    return 0;
}

static PyObject *bf16_in_file(PyObject *module, PyObject *arguments) {
    int descriptor, error = 0;
    long long start;
    Py_ssize_t bytes;
    Py_buffer room;
    Found found = NOTHING;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "iLnw*", &descriptor, &start, &bytes, &room))
        return NULL;
    size_t piece = (size_t)room.len / 4 * 4; /* words end where pieces do */
    if (start < 0 || bytes <= 0 || bytes % 2 || !piece) {
        PyBuffer_Release(&room);
        return refused();
    }
    Py_BEGIN_ALLOW_THREADS
    for (size_t done = 0; done < (size_t)bytes && !error; done += piece) {
        size_t size = (size_t)bytes - done < piece ? (size_t)bytes - done : piece;
        error = filled(descriptor, (off_t)start + (off_t)done, room.buf, size);
        if (!error)
            add(&found, room.buf, size);
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&room);
    if (error > 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (error) {
        PyErr_SetString(PyExc_EOFError, "the file ends before");
        return NULL;
    }
    return told(&found);
}

static PyMethodDef methods[] = {
    {"bf16", bf16, METH_O,
     "bf16(codes, /)\n--\n\n"
     "Sum, sum of squares, lowest, highest and how many are zero, of little-endian bfloat16 numbers.\n\n"
     "Lowest or highest is NaN or infinite where any of them is. Other threads go on meanwhile."},
    {"bf16_in_file", bf16_in_file, METH_VARARGS,
     "bf16_in_file(descriptor, start, size, room, /)\n--\n\n"
     "The same of a stretch of a file, which is read into ``room`` a piece at a time."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_one_pass", "One pass over numbers as they are stored.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__one_pass(void) {
    return PyModuleDef_Init(&definition);
}
