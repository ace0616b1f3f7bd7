//! A vector in shared memory.

use crate::plain::{bytes_of, bytes_of_mut, zeros};
use crate::wire;
use crate::{Plain, Result};
use polyproc_engine::sync::{InVector, Vector};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// A vector in shared memory: it grows and shrinks within a capacity that is stated once, and every process which has a handle
/// sees the same.
///
/// Each call is done as a whole or not at all, whichever process is killed in the midst of it; there is no half-written element,
/// no news of a death, and nothing to repair. What a capacity would take is taken when the vector is made.
///
/// # Examples
/// ```
/// use polyproc::{Process, SharedVec};
///
/// fn collect(squares: SharedVec<u64>, number: u64) {
///     squares.push(number * number).unwrap();
/// }
///
/// let squares = SharedVec::with_capacity(10)?;
/// let children: Vec<_> =
///     (1..=3).map(|number| Process::spawn(collect, (squares.clone(), number))).collect::<Result<_, _>>()?;
/// for child in children {
///     child.join().unwrap();
/// }
/// assert_eq!((squares.len(), squares.to_vec().iter().sum::<u64>()), (3, 14));
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct SharedVec<T: Plain> {
    vector: Vector,
    elements: PhantomData<T>,
}

impl<T: Plain> SharedVec<T> {
    /// An empty vector with room for so many elements.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the session's memory budget does not allow it.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers: SharedVec<u32> = SharedVec::with_capacity(10)?;
    /// assert!(numbers.is_empty());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn with_capacity(capacity: usize) -> Result<SharedVec<T>> {
        const { assert!(size_of::<T>() > 0, "elements of no size need no shared memory") };
        Ok(SharedVec { vector: Vector::new(size_of::<T>(), capacity)?, elements: PhantomData })
    }

    /// How many elements it has.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers: SharedVec<u32> = SharedVec::with_capacity(10)?;
    /// numbers.extend_from_slice(&[1, 2, 3])?;
    /// assert_eq!(numbers.len(), 3);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.vector.len()
    }

    /// True if it has none.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers: SharedVec<u32> = SharedVec::with_capacity(10)?;
    /// numbers.extend_from_slice(&[1, 2, 3])?;
    /// assert!(!numbers.is_empty());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many elements it has room for.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers: SharedVec<u32> = SharedVec::with_capacity(10)?;
    /// numbers.extend_from_slice(&[1, 2, 3])?;
    /// assert!(numbers.capacity() >= 10);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn capacity(&self) -> usize {
        self.vector.most()
    }

    /// Adds an element at the end. Gives its index.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) with [`Full`](polyproc_engine::Error::Full) if there is no room for it.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers = SharedVec::with_capacity(1)?;
    /// assert_eq!(numbers.push(7u32)?, 0);
    /// assert!(numbers.push(8).unwrap_err().to_string().contains("full"));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn push(&self, element: T) -> Result<usize> {
        self.extend_from_slice(&[element])
    }

    /// Adds elements at the end, all or none of them. Gives the index of the first.
    ///
    /// # Errors
    /// As [`SharedVec::push`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers: SharedVec<u32> = SharedVec::with_capacity(10)?;
    /// numbers.extend_from_slice(&[1, 2, 3])?;
    /// assert_eq!(numbers.to_vec(), [1, 2, 3]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn extend_from_slice(&self, elements: &[T]) -> Result<usize> {
        let mut inside = self.vector.enter();
        let at = inside.len();
        inside.push(bytes_of(elements))?;
        Ok(at)
    }

    /// Takes the last element out.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers: SharedVec<u32> = SharedVec::with_capacity(10)?;
    /// numbers.extend_from_slice(&[1, 2, 3])?;
    /// assert_eq!(numbers.pop(), Some(3));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn pop(&self) -> Option<T> {
        take(self.vector.enter(), |inside, element| inside.pop(element))
    }

    /// The element at an index.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers: SharedVec<u32> = SharedVec::with_capacity(10)?;
    /// numbers.extend_from_slice(&[1, 2, 3])?;
    /// assert_eq!((numbers.get(0), numbers.get(9)), (Some(1), None));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn get(&self, index: usize) -> Option<T> {
        take(self.vector.enter(), |inside, element| inside.get(index, element))
    }

    /// Replaces the element at an index. Gives what was there; `None`, and nothing changes, if there is none.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers: SharedVec<u32> = SharedVec::with_capacity(10)?;
    /// numbers.extend_from_slice(&[1, 2, 3])?;
    /// assert_eq!(numbers.set(0, 5), Some(1));
    /// assert_eq!(numbers.get(0), Some(5));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn set(&self, index: usize, element: T) -> Option<T> {
        self.update(index, |_| element)
    }

    /// Replaces the element at an index with what `change` makes of it, while nobody else uses the vector. Gives what was there;
    /// `None`, and nothing changes, if there is none. `change` must not use this vector itself.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers = SharedVec::with_capacity(4)?;
    /// numbers.extend_from_slice(&[1, 2, 3])?;
    /// assert_eq!(numbers.update(1, |number| number * 10), Some(2));
    /// assert_eq!(numbers.to_vec(), [1, 20, 3]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn update(&self, index: usize, change: impl FnOnce(T) -> T) -> Option<T> {
        let mut inside = self.vector.enter();
        let mut before = [zeros::<T>()];
        inside.get(index, bytes_of_mut(&mut before)).then(|| {
            inside.set(index, bytes_of(&[change(before[0])]));
            before[0]
        })
    }

    /// Puts an element before that at `index`; at the end if there are fewer.
    ///
    /// # Errors
    /// As [`SharedVec::push`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers: SharedVec<u32> = SharedVec::with_capacity(10)?;
    /// numbers.extend_from_slice(&[1, 2, 3])?;
    /// numbers.insert(1, 9)?;
    /// assert_eq!(numbers.to_vec(), [1, 9, 2, 3]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn insert(&self, index: usize, element: T) -> Result<()> {
        let mut inside = self.vector.enter();
        let index = index.min(inside.len());
        Ok(inside.insert(index, bytes_of(&[element]))?)
    }

    /// Takes the element at an index out; those behind it move up.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers: SharedVec<u32> = SharedVec::with_capacity(10)?;
    /// numbers.extend_from_slice(&[1, 2, 3])?;
    /// assert_eq!(numbers.remove(0), Some(1));
    /// assert_eq!(numbers.to_vec(), [2, 3]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn remove(&self, index: usize) -> Option<T> {
        take(self.vector.enter(), |inside, element| inside.remove(index, element))
    }

    /// Takes the element at an index out; the last one takes its place.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers: SharedVec<u32> = SharedVec::with_capacity(10)?;
    /// numbers.extend_from_slice(&[1, 2, 3])?;
    /// assert_eq!(numbers.swap_remove(0), Some(1));
    /// assert_eq!(numbers.to_vec(), [3, 2]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn swap_remove(&self, index: usize) -> Option<T> {
        take(self.vector.enter(), |inside, element| inside.swap_remove(index, element))
    }

    /// Forgets all elements but the first `len`.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers: SharedVec<u32> = SharedVec::with_capacity(10)?;
    /// numbers.extend_from_slice(&[1, 2, 3])?;
    /// numbers.truncate(1);
    /// assert_eq!(numbers.to_vec(), [1]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn truncate(&self, len: usize) {
        self.vector.enter().truncate(len);
    }

    /// Forgets all elements.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers: SharedVec<u32> = SharedVec::with_capacity(10)?;
    /// numbers.extend_from_slice(&[1, 2, 3])?;
    /// numbers.clear();
    /// assert!(numbers.is_empty());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn clear(&self) {
        self.truncate(0);
    }

    /// All elements, copied, as they are at one moment.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedVec;
    /// let numbers: SharedVec<u32> = SharedVec::with_capacity(10)?;
    /// numbers.extend_from_slice(&[1, 2, 3])?;
    /// assert_eq!(numbers.to_vec(), [1, 2, 3]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn to_vec(&self) -> Vec<T> {
        let inside = self.vector.enter();
        let mut elements = vec![zeros(); inside.len()];
        inside.get(0, bytes_of_mut(&mut elements));
        elements
    }
}

/// An element that a call copies out, if it says so.
fn take<'a, T: Plain>(mut inside: InVector<'a>, call: impl FnOnce(&mut InVector<'a>, &mut [u8]) -> bool) -> Option<T> {
    let mut element = [zeros()];
    call(&mut inside, bytes_of_mut(&mut element)).then_some(element[0])
}

impl<T: Plain> Clone for SharedVec<T> {
    fn clone(&self) -> SharedVec<T> {
        SharedVec { vector: self.vector.clone(), elements: PhantomData }
    }
}

impl<T: Plain> fmt::Debug for SharedVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedVec").field("len", &self.len()).field("capacity", &self.capacity()).finish()
    }
}

impl<T: Plain> Serialize for SharedVec<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        wire::pack_two(self.vector.holds(), serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for SharedVec<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<SharedVec<T>, D::Error> {
        let vector = wire::unpack_two(deserializer, |lock, memory| Vector::from_handles(lock, memory, size_of::<T>()))?;
        Ok(SharedVec { vector, elements: PhantomData })
    }
}
