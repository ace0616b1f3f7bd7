//! Values in shared memory that need no lock.

use crate::wire;
use crate::{Plain, Result};
use polyproc_engine::shm::Memory;
use polyproc_engine::{Error as EngineError, Handle};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
};

/// A type that several processes may use at the same time, through a shared reference: atomics, arrays of them, and structs of
/// them, for which it is derived.
///
/// ```
/// use polyproc::{Shared, SharedCell};
/// use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
///
/// #[derive(Default, SharedCell)]
/// #[repr(C)]
/// struct Progress {
///     bytes: AtomicU64,
///     files: [AtomicU32; 2],
/// }
///
/// let progress = Shared::new(Progress::default())?;
/// progress.bytes.fetch_add(512, Ordering::Relaxed);
/// assert_eq!(progress.clone().bytes.load(Ordering::Relaxed), 512);
/// # Ok::<(), polyproc::Error>(())
/// ```
///
/// # Safety
/// Every pattern of bytes, all zeros above all, must be a valid value; whatever a `&Self` allows must be sound while other
/// processes use the same value; no padding, no pointers, nothing that means something in one process only; nothing needs to
/// be dropped; the alignment is at most 4096.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be used by several processes at the same time",
    label = "not a `SharedCell`",
    note = "atomics can, and arrays of them; a `#[repr(C)]` struct of them can with `#[derive(polyproc::SharedCell)]`",
    note = "for other data there is `polyproc::Lock`"
)]
pub unsafe trait SharedCell: 'static {}

macro_rules! cells {
    ($($atomic:ty)*) => {
        // SAFETY: an atomic: any bytes are a value, and it is made for this.
        $(unsafe impl SharedCell for $atomic {})*
    };
}

cells!(AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize AtomicI8 AtomicI16 AtomicI32 AtomicI64 AtomicIsize);

// SAFETY: elements lie side by side, without padding between them.
unsafe impl<T: SharedCell, const N: usize> SharedCell for [T; N] {}

/// A value in shared memory that every process which has a handle sees: an atomic, or an array of them.
///
/// # Examples
/// ```
/// use polyproc::{Process, Shared};
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// fn count(hits: Shared<AtomicU64>) {
///     for _ in 0..1000 {
///         hits.fetch_add(1, Ordering::Relaxed);
///     }
/// }
///
/// let hits = Shared::new(AtomicU64::new(0))?;
/// let children: Vec<_> = (0..3).map(|_| Process::spawn(count, (hits.clone(),))).collect::<Result<_, _>>()?;
/// for child in children {
///     child.join().unwrap();
/// }
/// assert_eq!(hits.load(Ordering::Relaxed), 3000);
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct Shared<T: SharedCell> {
    memory: Arc<Memory>,
    value: PhantomData<T>,
}

impl<T: SharedCell> Shared<T> {
    /// Puts a value into shared memory.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the session's memory budget is used up.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Shared;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// let count = Shared::new(AtomicU64::new(5))?;
    /// count.fetch_add(1, Ordering::Relaxed);
    /// assert_eq!(count.load(Ordering::Relaxed), 6);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn new(value: T) -> Result<Shared<T>> {
        const { assert!(align_of::<T>() <= 4096 && !std::mem::needs_drop::<T>()) };
        let memory = Memory::allocate(size_of::<T>())?;
        // SAFETY: the memory is large enough, begins with a page, and nobody else knows of it yet.
        unsafe { memory.as_ptr().cast::<T>().write(value) };
        Ok(Shared { memory: memory.into(), value: PhantomData })
    }
}

impl<T: SharedCell> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: large enough and aligned, as `new` and `deserialize` saw to; SharedCell says that sharing it is sound, and
        // the memory lives as long as this.
        unsafe { &*self.memory.as_ptr().cast::<T>() }
    }
}

impl<T: SharedCell> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared { memory: Arc::clone(&self.memory), value: PhantomData }
    }
}

impl<T: SharedCell + fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: SharedCell> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        wire::pack(self.memory.hold(), serializer)
    }
}

impl<'de, T: SharedCell> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Shared<T>, D::Error> {
        let memory = wire::unpack(deserializer, |handle| of_size(handle, |size| size == size_of::<T>()))?;
        Ok(Shared { memory: memory.into(), value: PhantomData })
    }
}

fn of_size(handle: Handle, fits: impl FnOnce(usize) -> bool) -> polyproc_engine::Result<Memory> {
    let memory = Memory::from_handle(handle)?;
    let detail = "it is of another size than its type";
    if fits(memory.len()) { Ok(memory) } else { Err(EngineError::Damaged { what: "shared value", detail }) }
}

/// An array of numbers in shared memory, written and read an element, or a run of them, at a time.
///
/// It has no lock: an element that one process reads while another writes it may be a mixture of both. Where that matters,
/// use a [`Lock`](crate::Lock) or a [`Barrier`](crate::Barrier) beside it.
///
/// # Examples
/// ```
/// use polyproc::{Process, SharedSlice};
///
/// fn fill(row: u32, picture: SharedSlice<f32>) {
///     picture.write(row as usize * 4, &[row as f32; 4]);
/// }
///
/// let picture = SharedSlice::<f32>::zeroed(12)?;
/// let children: Vec<_> =
///     (0..3).map(|row| Process::spawn(fill, (row, picture.clone()))).collect::<Result<_, _>>()?;
/// for child in children {
///     child.join().unwrap();
/// }
/// assert_eq!(picture.to_vec(), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct SharedSlice<T: Plain> {
    memory: Arc<Memory>,
    elements: PhantomData<T>,
}

impl<T: Plain> SharedSlice<T> {
    /// An array of `length` elements, all of whose bytes are zero.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the session's memory budget is used up.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedSlice;
    /// let numbers = SharedSlice::<u32>::zeroed(4)?;
    /// assert_eq!(numbers.to_vec(), [0, 0, 0, 0]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn zeroed(length: usize) -> Result<SharedSlice<T>> {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= 4096) };
        let too_large = EngineError::TooLarge { size: u64::MAX, limit: polyproc_engine::shm::MAX_BLOCK };
        let bytes = length.checked_mul(size_of::<T>()).ok_or(too_large)?;
        Ok(SharedSlice { memory: Memory::allocate(bytes)?.into(), elements: PhantomData })
    }

    /// How many elements it has.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedSlice;
    /// let numbers = SharedSlice::<u32>::zeroed(4)?;
    /// assert_eq!(numbers.len(), 4);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.memory.len() / size_of::<T>()
    }

    /// True for an array of no elements.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedSlice;
    /// let numbers = SharedSlice::<u32>::zeroed(4)?;
    /// assert!(!numbers.is_empty());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The place of `count` elements.
    fn place(&self, at: usize, count: usize) -> *mut T {
        let end = at.checked_add(count);
        assert!(
            end.is_some_and(|end| end <= self.len()),
            "{count} elements from {at} on, of an array of {}",
            self.len()
        );
        // SAFETY: checked: it lies within the memory.
        unsafe { self.memory.as_ptr().cast::<T>().add(at) }
    }

    /// The element at an index.
    ///
    /// # Panics
    /// If there is none.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedSlice;
    /// let numbers = SharedSlice::<u32>::zeroed(4)?;
    /// assert_eq!(numbers.get(3), 0);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn get(&self, index: usize) -> T {
        // SAFETY: the place is valid and aligned, and any bytes are a T.
        unsafe { self.place(index, 1).read_volatile() }
    }

    /// Sets the element at an index.
    ///
    /// # Panics
    /// If there is none.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedSlice;
    /// let numbers = SharedSlice::<u32>::zeroed(4)?;
    /// numbers.set(3, 7);
    /// assert_eq!(numbers.get(3), 7);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn set(&self, index: usize, value: T) {
        // SAFETY: as above.
        unsafe { self.place(index, 1).write_volatile(value) };
    }

    /// Copies elements from index `at` on into `elements`.
    ///
    /// # Panics
    /// If there are not so many.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedSlice;
    /// let numbers = SharedSlice::<u32>::zeroed(4)?;
    /// numbers.set(2, 7);
    /// let mut part = [0; 2];
    /// numbers.read(1, &mut part);
    /// assert_eq!(part, [0, 7]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn read(&self, at: usize, elements: &mut [T]) {
        // SAFETY: the place has so many elements; the slice is this process's own, so they do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(self.place(at, elements.len()), elements.as_mut_ptr(), elements.len()) };
    }

    /// Copies `elements` to index `at` and the following.
    ///
    /// # Panics
    /// If there are not so many.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedSlice;
    /// let numbers = SharedSlice::<u32>::zeroed(4)?;
    /// numbers.write(1, &[5, 6]);
    /// assert_eq!(numbers.to_vec(), [0, 5, 6, 0]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn write(&self, at: usize, elements: &[T]) {
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(elements.as_ptr(), self.place(at, elements.len()), elements.len()) };
    }

    /// All elements, copied.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedSlice;
    /// let numbers = SharedSlice::<u32>::zeroed(4)?;
    /// assert_eq!(numbers.to_vec().len(), 4);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn to_vec(&self) -> Vec<T> {
        let mut elements = Vec::with_capacity(self.len());
        // SAFETY: as above; the vector has room for them, and any bytes are a T.
        unsafe {
            std::ptr::copy_nonoverlapping(self.place(0, self.len()), elements.as_mut_ptr(), self.len());
            elements.set_len(self.len());
        }
        elements
    }
}

impl<T: Plain> Clone for SharedSlice<T> {
    fn clone(&self) -> SharedSlice<T> {
        SharedSlice { memory: Arc::clone(&self.memory), elements: PhantomData }
    }
}

impl<T: Plain> fmt::Debug for SharedSlice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSlice").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<T: Plain> Serialize for SharedSlice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        wire::pack(self.memory.hold(), serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for SharedSlice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<SharedSlice<T>, D::Error> {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= 4096) };
        let memory = wire::unpack(deserializer, |handle| of_size(handle, |size| size % size_of::<T>() == 0))?;
        Ok(SharedSlice { memory: memory.into(), elements: PhantomData })
    }
}
