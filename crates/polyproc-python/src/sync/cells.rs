//! The numbers in a ctypes object that lies in shared memory, read and written where they are.
//!
//! ctypes takes about as long over one number as the lock around it. [`Cells`] does what ctypes does with the same bytes,
//! in the plain cases: an integer or a float of Python's own, an index or a slice that is in bounds. In every other case it
//! does nothing, and ctypes is asked, which converts or raises as it always does.
//!
//! Others may write at the same time without the lock (that is what `get_obj()` is for), so each number is read and written
//! once, as it is, by a volatile access.

use std::ffi::c_long;
use std::ptr;

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyList, PySlice, PyTuple};

#[derive(Clone, Copy)]
enum Number {
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
    Bool,
}

impl Number {
    /// By the letter of ctypes and the array module, for the C compiler's own sizes.
    fn named(code: &str) -> Option<Number> {
        let long = size_of::<c_long>() == 8;
        Some(match code {
            "b" => Number::I8,
            "B" => Number::U8,
            "h" => Number::I16,
            "H" => Number::U16,
            "i" => Number::I32,
            "I" => Number::U32,
            "l" if long => Number::I64,
            "L" if long => Number::U64,
            "l" => Number::I32,
            "L" => Number::U32,
            "q" => Number::I64,
            "Q" => Number::U64,
            "f" => Number::F32,
            "d" => Number::F64,
            "?" => Number::Bool,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Number::I8 | Number::U8 | Number::Bool => 1,
            Number::I16 | Number::U16 => 2,
            Number::I32 | Number::U32 | Number::F32 => 4,
            Number::I64 | Number::U64 | Number::F64 => 8,
        }
    }
}

/// Numbers in a row.
pub struct Cells {
    number: Number,
    first: *mut u8,
    count: usize,
    /// They are an array's, not a single number.
    many: bool,
}

// SAFETY: a place in memory that all processes share; which thread looks at it makes no difference.
unsafe impl Send for Cells {}
// SAFETY: as above.
unsafe impl Sync for Cells {}

impl Cells {
    /// The numbers of `object`, of the type that `code` names. None where they cannot be read in place: ctypes could move
    /// them, or they are not where such numbers may be.
    ///
    /// Whoever has the cells must have the object as well, for as long.
    pub fn of(object: &Bound<'_, PyAny>, code: &str) -> PyResult<Option<Cells>> {
        let py = object.py();
        // What owns its memory can be given other memory, by ctypes.resize.
        if object.getattr("_b_needsfree_")?.is_truthy()? {
            return Ok(None);
        }
        let Some(number) = Number::named(code) else { return Ok(None) };
        let mut view = ffi::Py_buffer::new();
        // SAFETY: a live object, and a view to fill in.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut view, ffi::PyBUF_WRITABLE) } != 0 {
            return Err(PyErr::fetch(py));
        }
        let (first, length) = (view.buf.cast::<u8>(), view.len.cast_unsigned());
        // SAFETY: filled in just now. ctypes keeps the memory of an object that does not own it in its place for as long as
        // the object lives.
        unsafe { ffi::PyBuffer_Release(&raw mut view) };
        let many = object.hasattr("_length_")?;
        let count = length / number.size();
        if length % number.size() != 0 || (!many && count != 1) {
            return Err(PyValueError::new_err(format!("{length} bytes are no numbers of the type {code:?}")));
        }
        let aligned = first.addr() % number.size() == 0;
        Ok(aligned.then_some(Cells { number, first, count, many }))
    }

    pub fn is_one(&self) -> bool {
        !self.many
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Which number an index means, if it is an integer and in bounds.
    #[inline]
    pub fn place(&self, index: &Bound<'_, PyAny>) -> Option<usize> {
        if !index.is_exact_instance_of::<PyInt>() {
            return None;
        }
        // SAFETY: attached, an integer. What does not fit raises, which is taken back.
        let index = unsafe {
            let number = ffi::PyLong_AsSsize_t(index.as_ptr());
            if number == -1 && !ffi::PyErr_Occurred().is_null() {
                ffi::PyErr_Clear();
                return None;
            }
            number
        };
        let place = if index < 0 { index + self.count.cast_signed() } else { index };
        usize::try_from(place).ok().filter(|&place| place < self.count)
    }

    /// The number at a place in bounds.
    #[inline]
    pub fn get<'py>(&self, py: Python<'py>, place: usize) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: attached; `read` checks the bounds. Each gives a new reference, or null with an exception.
        unsafe {
            let object = match self.number {
                Number::I8 => ffi::PyLong_FromLong(self.read::<i8>(place).into()),
                Number::U8 => ffi::PyLong_FromLong(self.read::<u8>(place).into()),
                Number::I16 => ffi::PyLong_FromLong(self.read::<i16>(place).into()),
                Number::U16 => ffi::PyLong_FromLong(self.read::<u16>(place).into()),
                Number::I32 => ffi::PyLong_FromLong(self.read::<i32>(place).into()),
                Number::U32 => ffi::PyLong_FromUnsignedLong(self.read::<u32>(place).into()),
                Number::I64 => ffi::PyLong_FromLongLong(self.read::<i64>(place)),
                Number::U64 => ffi::PyLong_FromUnsignedLongLong(self.read::<u64>(place)),
                Number::F32 => ffi::PyFloat_FromDouble(self.read::<f32>(place).into()),
                Number::F64 => ffi::PyFloat_FromDouble(self.read::<f64>(place)),
                Number::Bool => ffi::PyBool_FromLong(self.read::<u8>(place).into()),
            };
            Bound::from_owned_ptr_or_err(py, object)
        }
    }

    /// Writes the number at a place in bounds, if `value` is one of the same kind. False if that is for ctypes.
    #[inline]
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "as ctypes does: the low bits")]
    pub fn set(&self, place: usize, value: &Bound<'_, PyAny>) -> bool {
        match self.number {
            Number::F32 | Number::F64 => {
                if !value.is_exact_instance_of::<PyFloat>() {
                    return false;
                }
                // SAFETY: attached, a float.
                let value = unsafe { ffi::PyFloat_AsDouble(value.as_ptr()) };
                if let Number::F32 = self.number { self.write(place, value as f32) } else { self.write(place, value) }
            }
            Number::Bool => {
                let Ok(value) = value.cast_exact::<PyBool>() else { return false };
                self.write(place, u8::from(value.is_true()));
            }
            _ => {
                if !value.is_exact_instance_of::<PyInt>() {
                    return false;
                }
                // SAFETY: attached, an integer, of which this takes as many of the low bits as there is room for.
                let value: u64 = unsafe { ffi::PyLong_AsUnsignedLongLongMask(value.as_ptr()) };
                match self.number.size() {
                    1 => self.write(place, value as u8),
                    2 => self.write(place, value as u16),
                    4 => self.write(place, value as u32),
                    _ => self.write(place, value),
                }
            }
        }
        true
    }

    /// A slice's numbers as a list.
    pub fn slice<'py>(&self, slice: &Bound<'py, PySlice>) -> PyResult<Bound<'py, PyAny>> {
        let py = slice.py();
        let places = self.places(slice)?;
        // SAFETY: attached; a new list of that length, whose items are null until they are set below.
        let list = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyList_New(places.len().cast_signed()))? };
        for (number, place) in (0..).zip(places) {
            let item = self.get(py, place)?;
            // SAFETY: the list is new and only ours, the number in bounds; it takes the reference.
            unsafe { ffi::PyList_SetItem(list.as_ptr(), number, item.into_ptr()) };
        }
        Ok(list)
    }

    /// Writes a slice, if `values` is a list or tuple of as many numbers. False if that is for ctypes: some may have been
    /// written then, which ctypes will write again.
    pub fn set_slice(&self, slice: &Bound<'_, PySlice>, values: &Bound<'_, PyAny>) -> bool {
        let Ok(mut places) = self.places(slice) else { return false };
        if let Ok(list) = values.cast_exact::<PyList>() {
            list.len() == places.len()
                && list.iter().all(|value| places.next().is_some_and(|place| self.set(place, &value)))
        } else if let Ok(tuple) = values.cast_exact::<PyTuple>() {
            tuple.len() == places.len()
                && tuple.iter_borrowed().all(|value| places.next().is_some_and(|place| self.set(place, &value)))
        } else {
            false
        }
    }

    /// The places that a slice means, all in bounds.
    fn places(&self, slice: &Bound<'_, PySlice>) -> PyResult<impl ExactSizeIterator<Item = usize> + use<>> {
        let range = slice.indices(self.count.cast_signed())?;
        let numbers = 0..range.slicelength;
        Ok(numbers.map(move |number| (range.start + number.cast_signed() * range.step).cast_unsigned()))
    }

    #[inline]
    fn read<T: Copy>(&self, place: usize) -> T {
        assert!(place < self.count && size_of::<T>() == self.number.size(), "a number out of bounds");
        // SAFETY: in bounds, aligned, and any bits are such a number. The object that has the memory lives.
        unsafe { ptr::read_volatile(self.first.cast::<T>().add(place)) }
    }

    #[inline]
    fn write<T: Copy>(&self, place: usize, value: T) {
        assert!(place < self.count && size_of::<T>() == self.number.size(), "a number out of bounds");
        // SAFETY: as above; ctypes allows writing.
        unsafe { ptr::write_volatile(self.first.cast::<T>().add(place), value) };
    }
}
