//! From an object to a message of the engine, and back.
//!
//! ```text
//! object ─┬─ plain codec ─────────────▶ PLAIN      body: the codec's bytes
//!         ├─ bytes, bytearray, str ───▶ BYTES …    body: the bytes themselves (one copy in, one out)
//!         └─ pickle ──────────────────▶ PICKLE     body: the pickle; buffers: what it keeps out of band
//! send_bytes() ───────────────────────▶ RAW        body: the program's bytes
//! ```
//!
//! What `send()` sent may be read with `recv_bytes()`, and the other way round, as with the standard library, where both
//! are one pickle on the wire: [`Incoming::into_bytes`] and [`Incoming::into_object`] convert.

use std::cell::Cell;

use polyproc_engine::channel::{Body, Envelope, Parcel};
use polyproc_engine::{Deadline, Error, Result};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyString};

use crate::block::{self, Block, MUCH};
use crate::pickling::{self, Export};
use crate::{codec, waiting};

/// What the body of a message is.
mod kind {
    /// Written by the plain codec.
    pub const PLAIN: u8 = 0;
    /// A pickle, perhaps with buffers beside it.
    pub const PICKLE: u8 = 1;
    /// Bytes that a program sent as such.
    pub const RAW: u8 = 2;
    /// A `bytes` object.
    pub const BYTES: u8 = 3;
    /// A `bytearray`.
    pub const BYTEARRAY: u8 = 4;
    /// A `str`, as UTF-8.
    pub const STR: u8 = 5;
}

/// Bytes of `bytes` and `bytearray` that are sent as they are; below, the plain codec or pickle does.
const LONG: usize = 4096;

thread_local! {
    /// Where this thread encodes; taken out while in use, so that a reducer that sends a message itself finds none.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// What this thread receives into.
    static ENVELOPE: Cell<Option<Envelope>> = const { Cell::new(None) };
}

/// What sends a message: `Queue::put` or `PipeEnd::send`.
pub trait Sink: Fn(&mut Parcel<'_>, Deadline) -> Result<()> + Send + Sync {}
impl<F: Fn(&mut Parcel<'_>, Deadline) -> Result<()> + Send + Sync> Sink for F {}

/// What became of a message.
pub enum Sent {
    Delivered,
    /// The engine could not.
    Failed(Error),
    /// The object cannot be pickled.
    Refused(PyErr),
}

impl From<Result<()>> for Sent {
    #[inline]
    fn from(result: Result<()>) -> Sent {
        result.map_or_else(Sent::Failed, |()| Sent::Delivered)
    }
}

/// Sends `object`.
///
/// # Errors
/// What a signal handler raised while the call waited.
#[inline]
pub fn send(object: &Bound<'_, PyAny>, deadline: Deadline, sink: impl Sink) -> PyResult<Sent> {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    if codec::encode(object, &mut scratch).is_ok() {
        let result = post(object.py(), kind::PLAIN, &scratch, deadline, sink);
        SCRATCH.set(scratch);
        return result.map(Sent::from);
    }
    SCRATCH.set(scratch);
    send_large(object, deadline, sink)
}

/// Sends what the plain codec refused.
fn send_large(object: &Bound<'_, PyAny>, deadline: Deadline, sink: impl Sink) -> PyResult<Sent> {
    let py = object.py();
    if let Ok(bytes) = object.cast_exact::<PyBytes>() {
        return post(py, kind::BYTES, bytes.as_bytes(), deadline, sink).map(Sent::from);
    }
    if let Ok(array) = object.cast_exact::<PyByteArray>()
        && array.len() >= LONG
    {
        let export = Export::of(array)?;
        return post(py, kind::BYTEARRAY, export.bytes(), deadline, sink).map(Sent::from);
    }
    if let Ok(text) = object.cast_exact::<PyString>()
        && let Ok(bytes) = text.encode_utf8()
    {
        return post(py, kind::STR, bytes.as_bytes(), deadline, sink).map(Sent::from);
    }
    let pickled = match pickling::dumps(object) {
        Ok(pickled) => pickled,
        Err(error) => return Ok(Sent::Refused(error)),
    };
    let size = pickled.body.len() + pickled.buffers.iter().map(Export::len).sum::<usize>();
    let packed = detach_if(py, size >= MUCH, || {
        let mut parcel = Parcel::new(kind::PICKLE, pickled.body.bytes())?;
        parcel.set_references(&pickled.references);
        for buffer in &pickled.buffers {
            // SAFETY: the export keeps `len` bytes in place at `start`.
            unsafe { parcel.add_buffer(buffer.start(), buffer.len())? };
        }
        Ok(parcel)
    });
    deliver(py, packed, deadline, sink).map(Sent::from)
}

/// Sends bytes as such, for `send_bytes()`.
pub fn send_raw(py: Python<'_>, bytes: &[u8], deadline: Deadline, sink: impl Sink) -> PyResult<Result<()>> {
    post(py, kind::RAW, bytes, deadline, sink)
}

#[inline]
fn post(py: Python<'_>, kind: u8, body: &[u8], deadline: Deadline, sink: impl Sink) -> PyResult<Result<()>> {
    deliver(py, detach_if(py, body.len() >= MUCH, || Parcel::new(kind, body)), deadline, sink)
}

/// Sends what was packed, if it could be packed. By now all that is large lies in blocks.
#[inline]
fn deliver(py: Python<'_>, packed: Result<Parcel<'_>>, deadline: Deadline, sink: impl Sink) -> PyResult<Result<()>> {
    match packed {
        Ok(mut parcel) => waiting::wait(py, deadline, |deadline| sink(&mut parcel, deadline)),
        Err(error) => Ok(Err(error)),
    }
}

/// Runs `copy` without the interpreter if it copies much.
#[inline]
fn detach_if<T: Send>(py: Python<'_>, much: bool, copy: impl FnOnce() -> T + Send) -> T {
    if much { py.detach(copy) } else { copy() }
}

/// A message that came. What it holds goes back to this thread for the next one.
pub struct Incoming(Option<Envelope>);

impl Incoming {
    /// Receives a message with `source`: `Queue::get` or `PipeEnd::recv`.
    #[inline]
    pub fn receive(
        py: Python<'_>,
        deadline: Deadline,
        mut source: impl FnMut(&mut Envelope, Deadline) -> Result<()> + Send,
    ) -> PyResult<Result<Incoming>> {
        let mut envelope = ENVELOPE.take().unwrap_or_default();
        let result = waiting::wait(py, deadline, |deadline| source(&mut envelope, deadline));
        let incoming = Incoming(Some(envelope));
        Ok(result?.map(|()| incoming))
    }

    /// The object that was sent.
    #[inline]
    pub fn into_object<'py>(mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let envelope = self.envelope();
        if envelope.kind == kind::PLAIN && matches!(envelope.body, Body::Inline) {
            return codec::decode(py, &envelope.inline);
        }
        self.large_object(py)
    }

    fn large_object<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let envelope = self.envelope();
        match envelope.kind {
            kind::PICKLE => {
                let buffers = std::mem::take(&mut envelope.buffers)
                    .into_iter()
                    .map(|lease| Block::new(py, lease).map(Bound::into_any))
                    .collect::<PyResult<_>>()?;
                let body = body_as_buffer(py, envelope)?;
                pickling::loads(&body, buffers)
            }
            kind::RAW => {
                let body = body_as_buffer(py, envelope)?;
                pickling::loads_foreign(&body)
            }
            kind::BYTES => Ok(body_as_bytes(py, envelope)?.into_any()),
            kind::BYTEARRAY => Ok(match &envelope.body {
                Body::Inline => PyByteArray::new(py, &envelope.inline),
                Body::Block(lease) => block::to_bytearray(py, lease)?,
            }
            .into_any()),
            kind::STR => {
                let body = body_as_bytes(py, envelope)?;
                Ok(PyString::from_bytes(py, body.as_bytes())?.into_any())
            }
            kind::PLAIN => codec::decode(py, body_as_bytes(py, envelope)?.as_bytes()),
            other => Err(PyValueError::new_err(format!(
                "a message of the unknown kind {other}: it comes from another version of polyproc, or memory was overwritten"
            ))),
        }
    }

    /// The bytes that were sent with `send_bytes()`; of an object, its pickle.
    pub fn into_bytes<'py>(mut self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let envelope = self.envelope();
        match envelope.kind {
            kind::RAW => body_as_bytes(py, envelope),
            kind::PICKLE if envelope.buffers.is_empty() => body_as_bytes(py, envelope),
            _ => {
                let object = self.into_object(py)?;
                let pickle = pickling::standard(&object)?;
                Ok(PyBytes::new(py, Export::of(&pickle)?.bytes()))
            }
        }
    }

    #[inline]
    fn envelope(&mut self) -> &mut Envelope {
        self.0.get_or_insert_default()
    }
}

impl Drop for Incoming {
    #[inline]
    fn drop(&mut self) {
        if let Some(mut envelope) = self.0.take() {
            envelope.clear();
            ENVELOPE.set(Some(envelope));
        }
    }
}

/// The body as something pickle can read from.
fn body_as_buffer<'py>(py: Python<'py>, envelope: &mut Envelope) -> PyResult<Bound<'py, PyAny>> {
    match std::mem::replace(&mut envelope.body, Body::Inline) {
        Body::Inline => Ok(PyBytes::new(py, &envelope.inline).into_any()),
        Body::Block(lease) => Ok(Block::new(py, lease)?.into_any()),
    }
}

fn body_as_bytes<'py>(py: Python<'py>, envelope: &Envelope) -> PyResult<Bound<'py, PyBytes>> {
    match &envelope.body {
        Body::Inline => Ok(PyBytes::new(py, &envelope.inline)),
        Body::Block(lease) => block::to_bytes(py, lease),
    }
}
