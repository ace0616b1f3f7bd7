//! The plain codec: a short cut past pickle for what most messages are made of.
//!
//! It writes `None`, `bool`, `int`, `float`, `str`, `bytes` and small tuples, lists and dicts of them, and refuses
//! everything else (the caller then pickles). What it refuses, it refuses so that the result cannot be told from
//! pickle's:
//!
//! * exact types only: a subclass may pickle itself in its own way;
//! * a container that occurs twice in a message must arrive as one object that occurs twice. One that has a single
//!   reference occurs once; of the others the addresses are compared, and the second sight is a refusal;
//! * what contains itself runs into [`MAX_DEPTH`], which also bounds the recursion of both directions;
//! * a string longer than [`MAX_NESTED`] may be shared by many places, which pickle keeps small.
//!
//! ```text
//! message   tag … one value, nothing after it
//! 0x80+n    the int n, 0 ≤ n < 128
//! N T F     None, True, False
//! i b       int:   8 bytes little-endian;   b: 1 byte, signed
//! f         float: 8 bytes, the IEEE 754 bits
//! s S       str:   length (s: 1 byte, S: 4 bytes), UTF-8
//! y Y       bytes: length (y: 1 byte, Y: 4 bytes), the bytes
//! ( [ {     tuple, list, dict: count (1 byte), the items (of a dict: key, value, key, value …)
//! ) ] }     the same with a count of 4 bytes
//! ```
//!
//! **Invariant: [`decode`] is total.** Whatever the bytes are, it returns an object or an error: every read is checked
//! against the end, a count is checked against the bytes that are left before anything is allocated for it, and the
//! depth is bounded. It runs on a private copy, never on shared memory.
//!
//! **No Python code runs in [`encode`]**, and nothing in it gives the interpreter away, so a message is one snapshot.

use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::ptr;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Containers inside containers, at most; also what bounds the recursion over hostile bytes.
const MAX_DEPTH: u32 = 6;
/// Bytes of a string or of `bytes`, at most.
const MAX_NESTED: usize = 4096;
/// Bytes of a whole message, at most: beyond it pickle is about as fast, and smaller.
const MAX_MESSAGE: usize = 32 * 1024;
/// Containers with more than one reference that are remembered within one message.
const MAX_SHARED: usize = 16;
/// Bytes of a dict key that is worth remembering.
const MAX_KEY: usize = 24;
/// Keys that are remembered; a power of two.
const KEYS: usize = 256;

mod tag {
    pub const NONE: u8 = b'N';
    pub const TRUE: u8 = b'T';
    pub const FALSE: u8 = b'F';
    pub const INT: u8 = b'i';
    pub const INT_BYTE: u8 = b'b';
    pub const FLOAT: u8 = b'f';
    pub const STR: u8 = b's';
    pub const STR_LONG: u8 = b'S';
    pub const BYTES: u8 = b'y';
    pub const BYTES_LONG: u8 = b'Y';
    pub const TUPLE: u8 = b'(';
    pub const TUPLE_LONG: u8 = b')';
    pub const LIST: u8 = b'[';
    pub const LIST_LONG: u8 = b']';
    pub const DICT: u8 = b'{';
    pub const DICT_LONG: u8 = b'}';
    /// Tags from here on are small ints.
    pub const SMALL_INT: u8 = 0x80;
}

/// The codec will not write this object; pickle has to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// Why bytes are not a message.
enum Fault {
    /// The bytes are wrong; how.
    Malformed(&'static str),
    /// CPython has set an exception (out of memory, not UTF-8, a key that cannot be hashed).
    Raised,
}

// ---------------------------------------------------------------------------------------------------- encoding

/// Appends `object` to `out`, or refuses; after a refusal `out` is as long as before.
#[inline]
pub fn encode(object: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> Result<(), Refused> {
    let start = out.len();
    let mut writer = Writer { out, limit: start + MAX_MESSAGE, shared: [ptr::null_mut(); MAX_SHARED], seen: 0 };
    // SAFETY: `object` is a live reference, and the interpreter is held for as long as `object` is bound.
    let result = unsafe { writer.value(object.as_ptr(), 0) };
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Appends the head of a tuple, of which `count` items are to follow.
pub fn encode_tuple_of(count: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[tag::TUPLE, count]);
}

/// Appends `bytes`, or refuses.
pub fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
    let limit = out.len() + MAX_MESSAGE;
    Writer { out, limit, shared: [ptr::null_mut(); MAX_SHARED], seen: 0 }.run(bytes, tag::BYTES, tag::BYTES_LONG)
}

/// Appends an int.
#[inline]
pub fn encode_int(number: i64, out: &mut Vec<u8>) {
    if let Ok(small) = u8::try_from(number)
        && small < tag::SMALL_INT
    {
        out.push(tag::SMALL_INT | small);
    } else if let Ok(byte) = i8::try_from(number) {
        out.extend_from_slice(&[tag::INT_BYTE, byte.cast_unsigned()]);
    } else {
        let mut record = [tag::INT; 9];
        record[1..].copy_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&record);
    }
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    shared: [*mut ffi::PyObject; MAX_SHARED],
    seen: usize,
}

impl Writer<'_> {
    /// # Safety
    /// `object` must be alive and the interpreter held.
    #[inline]
    unsafe fn value(&mut self, object: *mut ffi::PyObject, depth: u32) -> Result<(), Refused> {
        // SAFETY: the contract of this function; the type objects are statics of CPython. Nothing called here runs
        // Python code or lets another thread run, so borrowed items stay alive.
        unsafe {
            let kind = ffi::Py_TYPE(object);
            if kind == &raw mut ffi::PyLong_Type {
                self.int(object)
            } else if kind == &raw mut ffi::PyUnicode_Type {
                self.str(object)
            } else if kind == &raw mut ffi::PyFloat_Type {
                self.out.push(tag::FLOAT);
                self.out.extend_from_slice(&ffi::PyFloat_AsDouble(object).to_bits().to_le_bytes());
                Ok(())
            } else if kind == &raw mut ffi::PyTuple_Type {
                let count = ffi::PyTuple_Size(object);
                self.open(object, count, tag::TUPLE, tag::TUPLE_LONG, depth)?;
                for index in 0..count {
                    self.value(ffi::PyTuple_GetItem(object, index), depth + 1)?;
                }
                Ok(())
            } else if kind == &raw mut ffi::PyDict_Type {
                let count = ffi::PyDict_Size(object);
                self.open(object, count, tag::DICT, tag::DICT_LONG, depth)?;
                let (mut position, mut key, mut item) = (0, ptr::null_mut(), ptr::null_mut());
                while ffi::PyDict_Next(object, &raw mut position, &raw mut key, &raw mut item) != 0 {
                    self.value(key, depth + 1)?;
                    self.value(item, depth + 1)?;
                }
                Ok(())
            } else if kind == &raw mut ffi::PyList_Type {
                let count = ffi::PyList_Size(object);
                self.open(object, count, tag::LIST, tag::LIST_LONG, depth)?;
                for index in 0..count {
                    self.value(ffi::PyList_GetItem(object, index), depth + 1)?;
                }
                Ok(())
            } else if kind == &raw mut ffi::PyBytes_Type {
                let (start, length) = (ffi::PyBytes_AsString(object), ffi::PyBytes_Size(object));
                let bytes = std::slice::from_raw_parts(start.cast::<u8>(), length.cast_unsigned());
                self.run(bytes, tag::BYTES, tag::BYTES_LONG)
            } else if object == ffi::Py_None() {
                self.out.push(tag::NONE);
                Ok(())
            } else if object == ffi::Py_True() {
                self.out.push(tag::TRUE);
                Ok(())
            } else if object == ffi::Py_False() {
                self.out.push(tag::FALSE);
                Ok(())
            } else {
                Err(Refused)
            }
        }
    }

    /// # Safety
    /// As of [`Writer::value`]; `object` is exactly an `int`.
    #[inline]
    unsafe fn int(&mut self, object: *mut ffi::PyObject) -> Result<(), Refused> {
        let mut overflow: c_int = 0;
        // SAFETY: an exact int; this call cannot raise for one.
        let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow) };
        if overflow != 0 {
            return Err(Refused);
        }
        encode_int(number, self.out);
        Ok(())
    }

    /// # Safety
    /// As of [`Writer::value`]; `object` is exactly a `str`.
    #[inline]
    unsafe fn str(&mut self, object: *mut ffi::PyObject) -> Result<(), Refused> {
        // SAFETY: an exact str; the UTF-8 lives as long as it, and it outlives this call.
        unsafe {
            // The UTF-8 of what is not ASCII is kept by the string from then on: only for short ones.
            if ffi::PyUnicode_GetLength(object) > MAX_NESTED.cast_signed() {
                return Err(Refused);
            }
            let mut length: ffi::Py_ssize_t = 0;
            let start = ffi::PyUnicode_AsUTF8AndSize(object, &raw mut length);
            if start.is_null() {
                // Lone surrogates (or no memory): pickle knows how.
                ffi::PyErr_Clear();
                return Err(Refused);
            }
            self.run(std::slice::from_raw_parts(start.cast::<u8>(), length.cast_unsigned()), tag::STR, tag::STR_LONG)
        }
    }

    #[inline]
    fn run(&mut self, bytes: &[u8], short: u8, long: u8) -> Result<(), Refused> {
        if bytes.len() > MAX_NESTED || self.out.len() + bytes.len() > self.limit {
            return Err(Refused);
        }
        self.length(bytes.len(), short, long);
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// # Safety
    /// As of [`Writer::value`]; `object` is a container and `count` its size.
    #[inline]
    unsafe fn open(
        &mut self,
        object: *mut ffi::PyObject,
        count: ffi::Py_ssize_t,
        short: u8,
        long: u8,
        depth: u32,
    ) -> Result<(), Refused> {
        let count = count.cast_unsigned();
        if depth >= MAX_DEPTH || self.out.len() + count > self.limit {
            return Err(Refused);
        }
        // The outermost cannot occur again but inside itself, which the depth ends. An empty tuple has no identity.
        // SAFETY: `object` is alive.
        if depth > 0 && !(short == tag::TUPLE && count == 0) && unsafe { references(object) } != 1 {
            let seen = self.shared.get(..self.seen).unwrap_or_default();
            if seen.contains(&object) {
                return Err(Refused);
            }
            *self.shared.get_mut(self.seen).ok_or(Refused)? = object;
            self.seen += 1;
        }
        self.length(count, short, long);
        Ok(())
    }

    #[inline]
    fn length(&mut self, length: usize, short: u8, long: u8) {
        if let Ok(byte) = u8::try_from(length) {
            self.out.extend_from_slice(&[short, byte]);
        } else {
            self.out.push(long);
            // Checked against MAX_MESSAGE before: it fits.
            self.out.extend_from_slice(&(length as u32).to_le_bytes());
        }
    }
}

/// The reference count, as the running interpreter keeps it: 3.14 has flags in the upper half of the word.
///
/// # Safety
/// `object` must be alive and the interpreter held.
#[inline]
unsafe fn references(object: *mut ffi::PyObject) -> u32 {
    // SAFETY: the contract of this function.
    (unsafe { ffi::Py_REFCNT(object) }) as u32
}

// ---------------------------------------------------------------------------------------------------- decoding

/// The object that `bytes` stand for.
///
/// # Errors
/// `ValueError` for bytes that [`encode`] did not write (a message that is damaged).
#[inline]
pub fn decode<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let mut reader = Reader { py, rest: bytes };
    let result = reader.value(0).and_then(|object| match reader.rest {
        [] => Ok(object),
        _ => Err(Fault::Malformed("something follows the object")),
    });
    result.map_err(|fault| damaged(py, fault))
}

/// Reads one value after another from bytes that hold several.
pub struct Values<'py, 'a>(Reader<'py, 'a>);

impl<'py, 'a> Values<'py, 'a> {
    pub fn new(py: Python<'py>, bytes: &'a [u8]) -> Values<'py, 'a> {
        Values(Reader { py, rest: bytes })
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.0.rest
    }

    /// Passes over `length` bytes, or over all that there are.
    pub fn skip(&mut self, length: usize) {
        self.0.rest = self.0.rest.get(length..).unwrap_or_default();
    }

    /// The next value.
    ///
    /// # Errors
    /// As of [`decode`].
    #[inline]
    pub fn next(&mut self) -> PyResult<Bound<'py, PyAny>> {
        self.0.value(0).map_err(|fault| damaged(self.0.py, fault))
    }
}

#[cold]
fn damaged(py: Python<'_>, fault: Fault) -> PyErr {
    match fault {
        Fault::Malformed(how) => PyValueError::new_err(format!(
            "this message is damaged ({how}): it was not written by polyproc, or memory was overwritten"
        )),
        Fault::Raised => PyErr::take(py)
            .unwrap_or_else(|| PyRuntimeError::new_err("decoding a message failed and CPython did not say why")),
    }
}

struct Reader<'py, 'a> {
    py: Python<'py>,
    rest: &'a [u8],
}

impl<'py> Reader<'py, '_> {
    #[inline]
    fn take(&mut self, length: usize) -> Result<&[u8], Fault> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(Fault::Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Fault::Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Fault> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    fn length(&mut self, short: bool) -> Result<usize, Fault> {
        if short { self.byte().map(usize::from) } else { self.array().map(|word| u32::from_le_bytes(word) as usize) }
    }

    /// A count of items of at least `each` bytes, checked before anything is allocated for it.
    #[inline]
    fn count(&mut self, short: bool, each: usize) -> Result<ffi::Py_ssize_t, Fault> {
        let count = self.length(short)?;
        if count > self.rest.len() / each {
            return Err(Fault::Malformed("a count is larger than the message"));
        }
        Ok(count.cast_signed())
    }

    /// # Safety
    /// `object` is null (with an exception set) or a new reference.
    #[inline]
    unsafe fn own(&self, object: *mut ffi::PyObject) -> Result<Bound<'py, PyAny>, Fault> {
        if object.is_null() {
            return Err(Fault::Raised);
        }
        // SAFETY: not null, so a new reference by this function's contract.
        Ok(unsafe { Bound::from_owned_ptr(self.py, object) })
    }

    #[inline]
    fn value(&mut self, depth: u32) -> Result<Bound<'py, PyAny>, Fault> {
        let tag = self.byte()?;
        if tag >= tag::SMALL_INT {
            // SAFETY: returns a new reference or null.
            return unsafe { self.own(ffi::PyLong_FromLong((tag & !tag::SMALL_INT).into())) };
        }
        match tag {
            tag::INT => {
                let number = i64::from_le_bytes(self.array()?);
                // SAFETY: returns a new reference or null.
                unsafe { self.own(ffi::PyLong_FromLongLong(number)) }
            }
            tag::STR | tag::STR_LONG => {
                let length = self.length(tag == tag::STR)?;
                let bytes = self.take(length)?;
                // SAFETY: reads `length` bytes of the slice, returns a new reference or null.
                let text = unsafe { ffi::PyUnicode_FromStringAndSize(bytes.as_ptr().cast(), length.cast_signed()) };
                // SAFETY: as returned just now.
                unsafe { self.own(text) }
            }
            tag::FLOAT => {
                let number = f64::from_bits(u64::from_le_bytes(self.array()?));
                // SAFETY: returns a new reference or null.
                unsafe { self.own(ffi::PyFloat_FromDouble(number)) }
            }
            tag::DICT | tag::DICT_LONG => self.dict(tag == tag::DICT, inside(depth)?),
            tag::TUPLE | tag::TUPLE_LONG => self.tuple(tag == tag::TUPLE, inside(depth)?),
            tag::LIST | tag::LIST_LONG => self.list(tag == tag::LIST, inside(depth)?),
            tag::BYTES | tag::BYTES_LONG => {
                let length = self.length(tag == tag::BYTES)?;
                let bytes = self.take(length)?;
                // SAFETY: copies `length` bytes of the slice, returns a new reference or null.
                let copy = unsafe { ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), length.cast_signed()) };
                // SAFETY: as returned just now.
                unsafe { self.own(copy) }
            }
            tag::INT_BYTE => {
                let number = self.byte()?.cast_signed();
                // SAFETY: returns a new reference or null.
                unsafe { self.own(ffi::PyLong_FromLong(number.into())) }
            }
            tag::NONE => Ok(self.py.None().into_bound(self.py)),
            // SAFETY: True and False are always there.
            tag::TRUE => Ok(unsafe { Bound::from_borrowed_ptr(self.py, ffi::Py_True()) }),
            // SAFETY: as above.
            tag::FALSE => Ok(unsafe { Bound::from_borrowed_ptr(self.py, ffi::Py_False()) }),
            _ => Err(Fault::Malformed("a tag is unknown")),
        }
    }

    fn tuple(&mut self, short: bool, depth: u32) -> Result<Bound<'py, PyAny>, Fault> {
        let count = self.count(short, 1)?;
        // SAFETY: returns a new reference or null.
        let tuple = unsafe { self.own(ffi::PyTuple_New(count))? };
        for index in 0..count {
            let item = self.value(depth)?;
            // SAFETY: the tuple is new and only ours, `index` is inside it; the call takes over the reference.
            if unsafe { ffi::PyTuple_SetItem(tuple.as_ptr(), index, item.into_ptr()) } != 0 {
                return Err(Fault::Raised);
            }
        }
        Ok(tuple)
    }

    fn list(&mut self, short: bool, depth: u32) -> Result<Bound<'py, PyAny>, Fault> {
        let count = self.count(short, 1)?;
        // SAFETY: returns a new reference or null.
        let list = unsafe { self.own(ffi::PyList_New(count))? };
        for index in 0..count {
            let item = self.value(depth)?;
            // SAFETY: `index` is inside the new list; the call takes over the reference.
            if unsafe { ffi::PyList_SetItem(list.as_ptr(), index, item.into_ptr()) } != 0 {
                return Err(Fault::Raised);
            }
        }
        Ok(list)
    }

    fn dict(&mut self, short: bool, depth: u32) -> Result<Bound<'py, PyAny>, Fault> {
        let count = self.count(short, 2)?;
        // SAFETY: returns a new reference or null.
        let dict = unsafe { self.own(ffi::PyDict_New())? };
        for _ in 0..count {
            let key = match self.rest {
                [tag::STR, length, rest @ ..] if usize::from(*length) <= MAX_KEY => {
                    let (text, rest) =
                        rest.split_at_checked((*length).into()).ok_or(Fault::Malformed("it ends too early"))?;
                    self.rest = rest;
                    known_key(self.py, text)?
                }
                _ => self.value(depth)?,
            };
            let item = self.value(depth)?;
            // SAFETY: three live objects; the call takes references of its own.
            if unsafe { ffi::PyDict_SetItem(dict.as_ptr(), key.as_ptr(), item.as_ptr()) } != 0 {
                return Err(Fault::Raised);
            }
        }
        Ok(dict)
    }
}

#[inline]
fn inside(depth: u32) -> Result<u32, Fault> {
    if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(Fault::Malformed("it is nested too deeply")) }
}

// ---------------------------------------------------------------------------------------------------- keys

/// A dict key that came before: its bytes and the `str`. The same few keys come with every message, and a `str` that
/// is reused has its hash already.
struct Key {
    length: u8,
    text: [u8; MAX_KEY],
    object: *mut ffi::PyObject,
}

struct Keys(UnsafeCell<[Key; KEYS]>);

// SAFETY: only `known_key` touches it, which holds the interpreter's lock (a free-threaded build is refused at import)
// and calls nothing that could give it away while a borrow lasts.
unsafe impl Sync for Keys {}

static KEY_CACHE: Keys =
    Keys(UnsafeCell::new([const { Key { length: 0, text: [0; MAX_KEY], object: ptr::null_mut() } }; KEYS]));

/// The `str` of a short key; a known one is handed out again.
#[inline]
fn known_key<'py>(py: Python<'py>, text: &[u8]) -> Result<Bound<'py, PyAny>, Fault> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ text.len() as u64;
    for &byte in text {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let index = (hash ^ (hash >> 32)) as usize % KEYS;
    // SAFETY: the interpreter is held, `index` is inside, and the pointer is used only between two calls of CPython.
    let slot = unsafe { KEY_CACHE.0.get().cast::<Key>().add(index) };
    // SAFETY: as above; a slot with an object owns a reference to it, so it is alive.
    unsafe {
        if !(*slot).object.is_null()
            && usize::from((*slot).length) == text.len()
            && (&(*slot).text)[..text.len()] == *text
        {
            return Ok(Bound::from_borrowed_ptr(py, (*slot).object));
        }
    }
    // SAFETY: reads the slice, returns a new reference or null.
    let object = unsafe { ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), text.len().cast_signed()) };
    if object.is_null() {
        return Err(Fault::Raised);
    }
    // SAFETY: a new reference, checked.
    let object = unsafe { Bound::from_owned_ptr(py, object) };
    // SAFETY: as above. The length fits MAX_KEY, so the copy stays inside; the old object is dropped last, when the
    // slot is whole again.
    let old = unsafe {
        (&mut (*slot).text)[..text.len()].copy_from_slice(text);
        (*slot).length = text.len() as u8;
        ptr::replace(&raw mut (*slot).object, object.clone().into_ptr())
    };
    if !old.is_null() {
        // SAFETY: the slot's own reference, given up.
        drop(unsafe { Bound::from_owned_ptr(py, old) });
    }
    Ok(object)
}

// ---------------------------------------------------------------------------------------------------- for tests

/// What the plain codec makes of `obj`; None if pickle has to write it.
#[pyfunction]
fn encode_plain<'py>(obj: &Bound<'py, PyAny>) -> Option<Bound<'py, PyBytes>> {
    let mut bytes = Vec::new();
    encode(obj, &mut bytes).ok()?;
    Some(PyBytes::new(obj.py(), &bytes))
}

/// The object that bytes of the plain codec stand for.
#[pyfunction]
fn decode_plain<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    decode(py, data)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(encode_plain, module)?)?;
    module.add_function(wrap_pyfunction!(decode_plain, module)?)
}
