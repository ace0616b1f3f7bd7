//! Appending to the log of a manager's object, which several processes read as it grows: see `polyproc._shared_log`.
//!
//! ```text
//! head     8 bytes: epoch (32) | end of the log (32)      one store of it commits a record
//! records  4 bytes of length, and the plain codec's bytes
//! ```
//!
//! To append is to lock, copy, store the head, unlock, with no Python between: no signal handler can come while the lock is
//! held, and nothing that a handler does waits for its own thread.
//!
//! **When a participant dies** in [`Journal::append`], what it copied lies behind the end and means nothing.

use std::cell::RefCell;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::codec::{self, Refused};
use crate::memory::Memory;
use crate::sync::SemLock;

/// Where the first record begins.
const BEGIN: u64 = 64;
/// The part of the head that is the end of the log.
const END: u64 = 0xffff_ffff;
/// The head of a log that is of no use any more.
const MOVED: u64 = u64::MAX;
/// Bytes of a record's length.
const LENGTH: usize = 4;

/// What became of a record, where it was not written.
mod answer {
    /// The plain codec does not write it.
    pub const REFUSED: i64 = 0;
    /// There is no room for it.
    pub const FULL: i64 = -1;
    /// The log is of no use any more.
    pub const MOVED: i64 = -2;
    /// Others have written since.
    pub const CHANGED: i64 = -3;
}

thread_local! {
    static RECORD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static INNER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Appends records to a log.
///
/// Each of its methods returns the new head, or 0 for what the plain codec does not write, -1 where the log is full, -2 where
/// it is of no use any more, -3 where the head was not `expected`.
#[pyclass(module = "polyproc._polyproc", frozen)]
pub struct Journal {
    memory: Py<Memory>,
    lock: Py<SemLock>,
}

impl Journal {
    fn record(
        &self,
        py: Python<'_>,
        expected: Option<u64>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Refused>,
    ) -> PyResult<i64> {
        // Taken, not borrowed: a signal handler that comes while the lock is waited for may write as well.
        let mut record = RECORD.take();
        record.clear();
        record.extend_from_slice(&[0; LENGTH]);
        let answer = if write(&mut record).is_ok() {
            // The codec writes far less than 4 GiB.
            let length = (record.len() - LENGTH) as u32;
            record[..LENGTH].copy_from_slice(&length.to_le_bytes());
            self.append(py, &record, expected)
        } else {
            Ok(answer::REFUSED)
        };
        RECORD.set(record);
        answer
    }

    fn append(&self, py: Python<'_>, record: &[u8], expected: Option<u64>) -> PyResult<i64> {
        let lock = self.lock.get();
        lock.take_unwarned(py)?;
        let answer = self.commit(record, expected);
        if !lock.give_taken() {
            lock.give()?;
        }
        Ok(answer)
    }

    /// With the lock held.
    fn commit(&self, record: &[u8], expected: Option<u64>) -> i64 {
        let memory = &self.memory.get().shared;
        let start = memory.as_ptr();
        // SAFETY: the memory is mapped for as long as it is held, page-aligned, and larger than a head, as `new` has seen.
        let head = unsafe { &*start.cast::<AtomicU64>() };
        let word = head.load(Ordering::Relaxed);
        let begin = word & END;
        if word == MOVED || begin < BEGIN {
            return answer::MOVED;
        }
        if expected.is_some_and(|expected| expected != word) {
            return answer::CHANGED;
        }
        let end = begin + record.len() as u64;
        if end > memory.len() as u64 {
            return answer::FULL;
        }
        // SAFETY: in bounds, as just seen; the lock is ours, and nobody reads behind the end. Others see bytes through raw
        // pointers only.
        unsafe { ptr::copy_nonoverlapping(record.as_ptr(), start.add(begin as usize), record.len()) };
        // DEATH: before this store nothing has happened, after it everything.
        // ORDER: pairs with the readers' load of the head: who sees the new end sees the record.
        let word = word + record.len() as u64;
        head.store(word, Ordering::Release);
        word.cast_signed()
    }
}

#[pymethods]
impl Journal {
    /// `lock` guards `memory`, which begins with the head.
    #[new]
    fn new(memory: Py<Memory>, lock: Py<SemLock>) -> PyResult<Journal> {
        if (memory.get().shared.len() as u64) < BEGIN {
            return Err(PyValueError::new_err(format!("a log needs {BEGIN} bytes at least")));
        }
        Ok(Journal { memory, lock })
    }

    /// Appends `content`, a tuple.
    #[pyo3(signature = (content, expected = None))]
    fn write(&self, content: &Bound<'_, PyAny>, expected: Option<u64>) -> PyResult<i64> {
        self.record(content.py(), expected, |record| codec::encode(content, record))
    }

    /// Appends `(key, the bytes that value is encoded to)`.
    #[pyo3(signature = (key, value, expected = None))]
    fn put(&self, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>, expected: Option<u64>) -> PyResult<i64> {
        self.record(key.py(), expected, |record| encode_wrapped(Some(key), value, record))
    }

    /// Appends `(the bytes that value is encoded to,)`.
    fn push(&self, value: &Bound<'_, PyAny>) -> PyResult<i64> {
        self.record(value.py(), None, |record| encode_wrapped(None, value, record))
    }
}

/// Writes the tuple of `first`, where there is one, and the bytes that `value` is encoded to.
fn encode_wrapped(
    first: Option<&Bound<'_, PyAny>>,
    value: &Bound<'_, PyAny>,
    out: &mut Vec<u8>,
) -> Result<(), Refused> {
    codec::encode_tuple_of(1 + u8::from(first.is_some()), out);
    if let Some(first) = first {
        codec::encode(first, out)?;
    }
    let mut inner = INNER.take();
    inner.clear();
    let result = codec::encode(value, &mut inner).and_then(|()| codec::encode_bytes(&inner, out));
    INNER.set(inner);
    result
}

/// The contents of a log's records, one tuple after another.
///
/// # Errors
/// `ValueError` for bytes that are no records.
#[pyfunction]
fn decode_records<'py>(py: Python<'py>, records: &Bound<'py, PyBytes>) -> PyResult<Bound<'py, PyList>> {
    let contents = PyList::empty(py);
    let mut rest = records.as_bytes();
    while let Some((length, behind)) = rest.split_first_chunk::<LENGTH>() {
        let length = u32::from_le_bytes(*length) as usize;
        let content = behind.get(..length).ok_or_else(|| PyValueError::new_err("a record is longer than its log"))?;
        contents.append(codec::decode(py, content)?)?;
        rest = &behind[length..];
    }
    Ok(contents)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Journal>()?;
    module.add_function(wrap_pyfunction!(decode_records, module)?)
}
