//! Pipes: the engine's pipe end as the base class of the connections that `polyproc.connection.Pipe` makes.
//!
//! Names, checks and messages are those of the standard library's `Connection`.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polyproc_engine::channel::{PipeEnd as End, Transport};
use polyproc_engine::{Deadline, Error};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::message::{self, Incoming, Sent};
use crate::pickling::Export;
use crate::{errors, sharing, waiting};

/// One end of a pipe: base of the connections.
#[pyclass(module = "polyproc._polyproc", subclass, frozen)]
pub struct PipeEnd {
    /// None once it is closed. Calls that wait keep a reference of their own: closing ends no call of another thread.
    end: Mutex<Option<Arc<End>>>,
}

/// The `timeout` of `poll()`: here None means never, and nothing means now.
#[derive(Clone, Copy)]
struct PollTimeout(Deadline);

impl<'py> FromPyObject<'_, 'py> for PollTimeout {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<PollTimeout> {
        let timeout = (!object.is_none()).then_some(&*object);
        waiting::deadline(timeout).map(PollTimeout)
    }
}

impl PipeEnd {
    fn new(end: Option<End>) -> PipeEnd {
        PipeEnd { end: Mutex::new(end.map(Arc::new)) }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<End>>> {
        // Nothing panics while it is held, and a poisoned slot is still a slot.
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peek(&self) -> Option<Arc<End>> {
        self.slot().clone()
    }

    #[inline]
    fn open(&self) -> PyResult<Arc<End>> {
        self.peek().ok_or_else(|| PyOSError::new_err("handle is closed"))
    }

    #[inline]
    fn to_read(&self) -> PyResult<Arc<End>> {
        let end = self.open()?;
        if end.readable() { Ok(end) } else { Err(PyOSError::new_err("connection is write-only")) }
    }

    #[inline]
    fn to_write(&self) -> PyResult<Arc<End>> {
        let end = self.open()?;
        if end.writable() { Ok(end) } else { Err(PyOSError::new_err("connection is read-only")) }
    }

    #[inline]
    fn receive(&self, py: Python<'_>) -> PyResult<Incoming> {
        let end = self.to_read()?;
        Incoming::receive(py, Deadline::Never, |envelope, deadline| match deadline {
            Deadline::Now => end.try_receive(envelope),
            deadline => end.receive(envelope, deadline),
        })?
        .map_err(errors::raise)
    }
}

#[pymethods]
impl PipeEnd {
    #[new]
    #[pyo3(signature = (*_arguments, **_options), text_signature = "(*args, **kwargs)")]
    fn __new__(_arguments: &Bound<'_, PyTuple>, _options: Option<&Bound<'_, PyDict>>) -> PipeEnd {
        PipeEnd::new(None)
    }

    /// Makes a pipe: both ends, or, if not `duplex`, one that reads and one that writes.
    #[staticmethod]
    fn pair(duplex: bool) -> PyResult<(PipeEnd, PipeEnd)> {
        let (first, second) = polyproc_engine::channel::pipe(duplex).map_err(errors::raise)?;
        Ok((PipeEnd::new(Some(first)), PipeEnd::new(Some(second))))
    }

    /// Makes an end of the descriptor and the bytes of `_share()`. Takes over the descriptor.
    #[staticmethod]
    fn _attach(descriptor: RawFd, shared: &[u8]) -> PyResult<PipeEnd> {
        // SAFETY: the caller gives the descriptor away; it came from another process for this very end.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let transport = Transport { socket: descriptor, handle: sharing::received(shared)? };
        End::from_transport(transport).map(|end| PipeEnd::new(Some(end))).map_err(errors::raise)
    }

    /// Moves the end out of `other`, which is closed from then on.
    fn _take(&self, other: &Bound<'_, PipeEnd>) {
        let end = other.get().slot().take();
        *self.slot() = end;
    }

    /// The bytes that name this end, for a child or a message that is being pickled.
    fn _share<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyBytes>> {
        let end = slf.get().open()?;
        sharing::share_by(slf.py(), end.handles(), "Connection", |child| end.share_with(child))
    }

    /// The descriptor as such: asking for it arms nothing.
    fn _descriptor(&self) -> PyResult<RawFd> {
        Ok(self.open()?.socket().as_raw_fd())
    }

    /// Sends `obj`.
    ///
    /// Raises ``BrokenPipeError`` if nobody holds the other end any more, ``OSError`` if this end is closed or only
    /// reads, and what pickling raises if `obj` cannot be pickled.
    fn send(&self, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        let end = self.to_write()?;
        match message::send(obj, Deadline::Never, |message, deadline| end.send(message, deadline))? {
            Sent::Delivered => Ok(()),
            Sent::Failed(error) => Err(errors::raise(error)),
            Sent::Refused(error) => Err(error),
        }
    }

    /// Receives an object; waits until there is one.
    ///
    /// Raises ``EOFError`` when everything is read and nobody holds the other end any more.
    fn recv<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.receive(py)?.into_object(py)
    }

    /// Sends bytes: all of `buf`, or `size` bytes from `offset` on.
    #[pyo3(signature = (buf, offset = 0, size = None))]
    fn send_bytes(&self, buf: &Bound<'_, PyAny>, offset: isize, size: Option<isize>) -> PyResult<()> {
        let end = self.to_write()?;
        let export = Export::of(buf)?;
        let offset = usize::try_from(offset).map_err(|_| PyValueError::new_err("offset is negative"))?;
        let rest = export.bytes().get(offset..).ok_or_else(|| PyValueError::new_err("buffer length < offset"))?;
        let part = match size.map(usize::try_from) {
            None => rest,
            Some(Err(_)) => return Err(PyValueError::new_err("size is negative")),
            Some(Ok(size)) => rest.get(..size).ok_or_else(|| PyValueError::new_err("buffer length < offset + size"))?,
        };
        message::send_raw(buf.py(), part, Deadline::Never, |message, deadline| end.send(message, deadline))?
            .map_err(errors::raise)
    }

    /// Receives bytes that `send_bytes()` sent.
    ///
    /// Raises ``OSError`` if they are more than `maxlength`; the connection cannot be read from then on.
    #[pyo3(signature = (maxlength = None))]
    fn recv_bytes<'py>(&self, py: Python<'py>, maxlength: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        let end = self.to_read()?;
        let limit =
            maxlength.map(usize::try_from).transpose().map_err(|_| PyValueError::new_err("negative maxlength"))?;
        let bytes = self.receive(py)?.into_bytes(py)?;
        if limit.is_some_and(|limit| bytes.as_bytes().len() > limit) {
            drop(end);
            self.close();
            return Err(PyOSError::new_err("bad message length"));
        }
        Ok(bytes)
    }

    /// Receives bytes into the writable `buf`, from `offset` on, and gives how many they are.
    ///
    /// Raises ``BufferTooShort`` with the bytes as its argument if there is not enough room.
    #[pyo3(signature = (buf, offset = 0))]
    fn recv_bytes_into(&self, py: Python<'_>, buf: &Bound<'_, PyAny>, offset: isize) -> PyResult<usize> {
        self.to_read()?;
        let target = Export::writable(buf)?;
        let offset = usize::try_from(offset).map_err(|_| PyValueError::new_err("negative offset"))?;
        if offset > target.len() {
            return Err(PyValueError::new_err("offset too large"));
        }
        let bytes = self.receive(py)?.into_bytes(py)?;
        let length = bytes.as_bytes().len();
        if length > target.len() - offset {
            return Err(too_short(bytes));
        }
        // SAFETY: the export is writable and alive, and `offset + length` bytes lie in it, as checked just now. The
        // bytes object is no part of it: it is new.
        unsafe { target.start().add(offset).copy_from_nonoverlapping(bytes.as_bytes().as_ptr(), length) };
        Ok(length)
    }

    /// Whether there is something to receive, or the end: waits up to `timeout` seconds (None: as long as it takes).
    #[pyo3(signature = (timeout = PollTimeout(Deadline::Now)), text_signature = "($self, timeout=0.0)")]
    fn poll(&self, py: Python<'_>, timeout: PollTimeout) -> PyResult<bool> {
        let end = self.to_read()?;
        let found = waiting::wait(py, timeout.0, |deadline| match end.poll(deadline) {
            // `wait` tries at once first, and waits when it hears that it was not in time.
            Ok(false) => Err(Error::TimedOut),
            result => result,
        })?;
        match found {
            Err(Error::TimedOut) => Ok(false),
            result => result.map_err(errors::raise),
        }
    }

    /// The descriptor, readable from now on while there is something to receive.
    fn fileno(&self) -> PyResult<RawFd> {
        Ok(self.open()?.fd())
    }

    /// Closes this end; closing twice is fine.
    fn close(&self) {
        let end = self.slot().take();
        drop(end);
    }

    #[getter]
    fn closed(&self) -> bool {
        self.slot().is_none()
    }

    #[getter]
    fn readable(&self) -> bool {
        self.peek().is_some_and(|end| end.readable())
    }

    #[getter]
    fn writable(&self) -> bool {
        self.peek().is_some_and(|end| end.writable())
    }

    /// The descriptor, or None once closed.
    #[getter]
    fn _handle(&self) -> Option<RawFd> {
        self.peek().map(|end| end.fd())
    }

    /// Sends a copy of a descriptor.
    fn _send_descriptor(&self, py: Python<'_>, descriptor: RawFd) -> PyResult<()> {
        let end = self.open()?;
        if descriptor < 0 {
            return Err(PyValueError::new_err(format!("{descriptor} is not a descriptor")));
        }
        // SAFETY: it is only handed to the system, within this call, which says so if it is not open.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        py.detach(|| end.send_descriptor(descriptor)).map_err(errors::raise)
    }

    /// Receives a descriptor.
    fn _receive_descriptor(&self, py: Python<'_>) -> PyResult<RawFd> {
        let end = self.open()?;
        match waiting::wait_detached(py, Deadline::Never, |deadline| end.receive_descriptor(deadline))? {
            Ok(descriptor) => Ok(descriptor.into_raw_fd()),
            // The standard library's words.
            Err(Error::Damaged { detail, .. }) => {
                Err(PyRuntimeError::new_err(format!("received 0 items of ancdata: {detail}")))
            }
            Err(error) => Err(errors::raise(error)),
        }
    }
}

fn too_short(bytes: Bound<'_, PyBytes>) -> PyErr {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = bytes.py();
    let class = CLASS.get_or_try_init(py, || {
        let context = py.import("polyproc._borrowed")?.call_method1("standard", ("context",))?;
        context.getattr("BufferTooShort").map(Bound::unbind)
    });
    match class.and_then(|class| class.call1(py, (bytes,))) {
        Ok(error) => PyErr::from_value(error.into_bound(py)),
        Err(error) => error,
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PipeEnd>()
}
