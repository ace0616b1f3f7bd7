//! Objects as the payload of tasks and results.
//!
//! ```text
//!  task    id:8 │ function: cell:4 generation:4 │ style:1 │ kind:1 │ payload
//!  result  id:8 │ verdict:1                              │ kind:1 │ payload
//! ```
//!
//! A bundle of tasks: style MANY or STARS, and count:4, then entries; its results: verdict ENTRIES, first:4, count:4, then
//! entries. An entry is a value of the plain codec; or, for what that does not write, APART:1, length:4, then for a task
//! kind:1 and payload, for a result verdict:1, kind:1 and payload.
//!
//! A small payload lies in the record, many to a page; a large one lies in blocks beside it: its body first, then what
//! pickle keeps out of band.

use polyproc_engine::Handle;
use polyproc_engine::channel::{Envelope, Parcel};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyString};

use crate::block::{self, Block};
use crate::codec;
use crate::pickling::{self, Export, Pickled};

/// What the payload is.
mod kind {
    pub const PLAIN: u8 = 0;
    pub const PICKLE: u8 = 1;
    pub const BYTES: u8 = 2;
    pub const BYTEARRAY: u8 = 3;
    pub const STR: u8 = 4;
}

/// How a function is called with the payload.
pub mod style {
    /// `function(payload)`
    pub const ITEM: u8 = 0;
    /// `function(*payload)`
    pub const STAR: u8 = 1;
    /// `function(*payload[0], **payload[1])`
    pub const FULL: u8 = 2;
    /// `payload[0](*payload[1], **payload[2])`
    pub const WHOLE: u8 = 3;
    /// A bundle of ITEM.
    pub const MANY: u8 = 4;
    /// A bundle of STAR.
    pub const STARS: u8 = 5;
}

/// What a result is.
pub mod verdict {
    /// What the function returned.
    pub const VALUE: u8 = 0;
    /// What it raised, as `polyproc.pool` describes it.
    pub const ERROR: u8 = 1;
    /// Results of a bundle, `count` from the `first` of them on.
    pub const ENTRIES: u8 = 2;
    /// One result of a bundle: its place:4, then a result.
    pub const AT: u8 = 3;
}

/// An entry begins with this that is no value of the plain codec. No value does.
const APART: u8 = 0;

/// Appends an entry that is no plain value: what `write` appends, with its length before it. Nothing is appended if it says
/// no.
fn entry_apart(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> PyResult<bool>) -> PyResult<bool> {
    let start = out.len();
    out.extend_from_slice(&[APART, 0, 0, 0, 0]);
    let written = write(out);
    if matches!(written, Ok(true)) {
        let length = (out.len() - start - 5) as u32;
        out[start + 1..start + 5].copy_from_slice(&length.to_le_bytes());
    } else {
        out.truncate(start);
    }
    written
}

/// Appends the argument of a task of a bundle. False if it is large.
///
/// # Errors
/// What pickling raises; nothing is appended then.
#[inline]
pub fn add_argument(object: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<bool> {
    if codec::encode(object, out).is_ok() {
        return Ok(true);
    }
    entry_apart(out, |out| pack(object, out).map(|large| large.is_none()))
}

/// Appends the result of a task of a bundle. False if it is large.
///
/// # Errors
/// As of [`add_argument`].
#[inline]
pub fn add_result(
    verdict: u8,
    object: &Bound<'_, PyAny>,
    function: Option<&Bound<'_, PyAny>>,
    out: &mut Vec<u8>,
) -> PyResult<bool> {
    if verdict == verdict::VALUE && codec::encode(object, out).is_ok() {
        return Ok(true);
    }
    entry_apart(out, |out| {
        out.push(verdict);
        pack_result(object, function.filter(|_| verdict == verdict::VALUE), out).map(|large| large.is_none())
    })
}

/// An entry of a bundle.
pub enum Entry<'py, 'a> {
    Plain(Bound<'py, PyAny>),
    Apart(&'a [u8]),
}

/// Reads the entries of a bundle.
pub struct Entries<'py, 'a>(codec::Values<'py, 'a>);

impl<'py, 'a> Entries<'py, 'a> {
    pub fn new(py: Python<'py>, bytes: &'a [u8]) -> Entries<'py, 'a> {
        Entries(codec::Values::new(py, bytes))
    }

    /// The next one.
    ///
    /// # Errors
    /// `ValueError` where the bytes make no sense: what follows makes none either.
    #[inline]
    pub fn next(&mut self) -> PyResult<Entry<'py, 'a>> {
        let bytes = self.0.rest();
        if bytes.first() != Some(&APART) {
            return self.0.next().map(Entry::Plain);
        }
        let length = number(bytes, 1).ok_or_else(damaged)? as usize;
        let entry = bytes.get(5..5 + length).ok_or_else(damaged)?;
        self.0.skip(5 + length);
        Ok(Entry::Apart(entry))
    }

    /// The argument of the next task.
    ///
    /// # Errors
    /// As of [`Entries::next`], and what unpickling raises.
    #[inline]
    pub fn argument(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.next()? {
            Entry::Plain(value) => Ok(value),
            Entry::Apart(payload) => unpack(py, payload),
        }
    }
}

/// A number of four bytes.
pub fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Bytes of a task's record before the kind of its payload.
pub const TASK_HEAD: usize = 17;
/// Bytes of a result's record before the kind of its payload.
pub const RESULT_HEAD: usize = 9;
/// The largest payload that lies in a record.
const SMALL: usize = 32 * 1024;

/// The head of a task's record.
pub fn task_head(out: &mut Vec<u8>, id: u64, function: Option<Handle>, style: u8) {
    let function = function.unwrap_or(Handle { cell: 0, generation: 0 });
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&function.cell.to_le_bytes());
    out.extend_from_slice(&function.generation.to_le_bytes());
    out.push(style);
}

/// A payload that is too large for its record.
pub struct Large {
    body: Export,
    buffers: Vec<Export>,
    references: Vec<Handle>,
}

impl Large {
    pub fn size(&self) -> usize {
        self.body.len() + self.buffers.iter().map(Export::len).sum::<usize>()
    }

    /// The parcel of a record with this payload beside it. Copies it into blocks.
    pub fn parcel<'a>(&'a self, record: &'a [u8]) -> polyproc_engine::Result<Parcel<'a>> {
        let mut parcel = Parcel::new(0, record)?;
        for buffer in std::iter::once(&self.body).chain(&self.buffers) {
            // SAFETY: the export keeps `len` bytes in place at `start`.
            unsafe { parcel.add_buffer(buffer.start(), buffer.len())? };
        }
        parcel.set_references(&self.references);
        Ok(parcel)
    }
}

/// Appends the kind of the payload to `out`, and the payload itself unless it is large.
///
/// # Errors
/// What pickling raises; `out` is then as long as before.
#[inline]
pub fn pack(object: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<Option<Large>> {
    pack_with(object, out, pickling::dumps)
}

/// The same for what `function` has returned; None for what is said of an exception.
#[inline]
pub fn pack_result(
    object: &Bound<'_, PyAny>,
    function: Option<&Bound<'_, PyAny>>,
    out: &mut Vec<u8>,
) -> PyResult<Option<Large>> {
    pack_with(object, out, |object| match function {
        Some(function) => pickling::dumps_result(object, function),
        None => pickling::dumps(object),
    })
}

#[inline]
fn pack_with<'py>(
    object: &Bound<'py, PyAny>,
    out: &mut Vec<u8>,
    dumps: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<Pickled>,
) -> PyResult<Option<Large>> {
    let start = out.len();
    out.push(kind::PLAIN);
    if codec::encode(object, out).is_ok() {
        return Ok(None);
    }
    let result = pack_otherwise(object, out, start, dumps);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn pack_otherwise<'py>(
    object: &Bound<'py, PyAny>,
    out: &mut Vec<u8>,
    start: usize,
    dumps: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<Pickled>,
) -> PyResult<Option<Large>> {
    let (kind, body, buffers, references) = if object.is_exact_instance_of::<PyBytes>() {
        (kind::BYTES, Export::of(object)?, Vec::new(), Vec::new())
    } else if object.is_exact_instance_of::<PyByteArray>() {
        (kind::BYTEARRAY, Export::of(object)?, Vec::new(), Vec::new())
    } else if let Ok(text) = object.cast_exact::<PyString>()
        && let Ok(bytes) = text.encode_utf8()
    {
        (kind::STR, Export::of(&bytes)?, Vec::new(), Vec::new())
    } else {
        let pickled = dumps(object)?;
        (kind::PICKLE, pickled.body, pickled.buffers, pickled.references)
    };
    out[start] = kind;
    if buffers.is_empty() && references.is_empty() && body.len() <= SMALL {
        out.extend_from_slice(body.bytes());
        return Ok(None);
    }
    Ok(Some(Large { body, buffers, references }))
}

/// The object of a small payload: its kind and its bytes.
#[inline]
pub fn unpack<'py>(py: Python<'py>, payload: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match payload {
        [kind::PLAIN, bytes @ ..] => codec::decode(py, bytes),
        [kind::PICKLE, bytes @ ..] => pickling::loads(PyBytes::new(py, bytes).as_any(), Vec::new()),
        [kind::BYTES, bytes @ ..] => Ok(PyBytes::new(py, bytes).into_any()),
        [kind::BYTEARRAY, bytes @ ..] => Ok(PyByteArray::new(py, bytes).into_any()),
        [kind::STR, bytes @ ..] => Ok(PyString::from_bytes(py, bytes)?.into_any()),
        _ => Err(damaged()),
    }
}

/// The object of a large payload.
pub fn unpack_large<'py>(py: Python<'py>, kind: Option<&u8>, envelope: &mut Envelope) -> PyResult<Bound<'py, PyAny>> {
    let mut blocks = std::mem::take(&mut envelope.buffers).into_iter();
    let (Some(kind), Some(body)) = (kind, blocks.next()) else { return Err(damaged()) };
    match *kind {
        kind::BYTES => Ok(block::to_bytes(py, &body)?.into_any()),
        kind::BYTEARRAY => Ok(block::to_bytearray(py, &body)?.into_any()),
        kind::STR => Ok(PyString::from_bytes(py, block::to_bytes(py, &body)?.as_bytes())?.into_any()),
        kind::PICKLE => {
            let buffers =
                blocks.map(|lease| Block::new(py, lease).map(Bound::into_any)).collect::<PyResult<Vec<_>>>()?;
            pickling::loads(Block::new(py, body)?.as_any(), buffers)
        }
        _ => Err(damaged()),
    }
}

fn damaged() -> PyErr {
    PyValueError::new_err("a task or a result does not parse: shared memory was overwritten")
}
