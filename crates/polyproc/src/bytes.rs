//! Bytes that travel beside a message, in a block of shared memory, instead of in it.

use crate::wire;
use polyproc_engine::shm::Lease;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Many bytes, to be sent fast: one copy into shared memory by the sender, and none by the receiver.
///
/// A `Vec<u8>` is encoded byte by byte, as any vector is; this is handed over as a block that the receiver alone then has.
/// It reads it where it lies: a part at a time with [`read`](Bytes::read), or all of it with [`to_vec`](Bytes::to_vec).
///
/// # Examples
/// ```
/// use polyproc::{Bytes, Process, Queue};
///
/// fn sum(pictures: Queue<Bytes>) -> u64 {
///     let picture = pictures.get().unwrap();
///     picture.to_vec().iter().map(|&byte| u64::from(byte)).sum()
/// }
///
/// let pictures = Queue::unbounded()?;
/// let child = Process::spawn(sum, (pictures.clone(),))?;
/// pictures.put(&Bytes::from(vec![2; 1_000_000]))?;
/// assert_eq!(child.join().unwrap(), 2_000_000);
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct Bytes(Place);

enum Place {
    /// Not sent yet.
    Own(Vec<u8>),
    /// Arrived.
    Leased(Lease),
}

impl Bytes {
    /// How many they are.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Bytes;
    /// assert_eq!(Bytes::from(vec![1, 2, 3]).len(), 3);
    /// ```
    pub fn len(&self) -> usize {
        match &self.0 {
            Place::Own(bytes) => bytes.len(),
            Place::Leased(lease) => lease.len(),
        }
    }

    /// True if there are none.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Bytes;
    /// assert!(Bytes::from(vec![]).is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies those from `at` on into `bytes`.
    ///
    /// # Panics
    /// If there are not so many.
    ///
    /// # Examples
    /// ```
    /// let bytes = polyproc::Bytes::from(b"hello world".to_vec());
    /// let mut part = [0; 5];
    /// bytes.read(6, &mut part);
    /// assert_eq!(&part, b"world");
    /// ```
    pub fn read(&self, at: usize, bytes: &mut [u8]) {
        let fits = at.checked_add(bytes.len()).is_some_and(|end| end <= self.len());
        assert!(fits, "{} bytes from {at} on, of {}", bytes.len(), self.len());
        // SAFETY: checked: they lie within; and `bytes` is another place.
        unsafe { std::ptr::copy_nonoverlapping(self.as_ptr().add(at), bytes.as_mut_ptr(), bytes.len()) };
    }

    /// All of them, copied.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Bytes;
    /// assert_eq!(Bytes::from(vec![1, 2, 3]).to_vec(), [1, 2, 3]);
    /// ```
    pub fn to_vec(&self) -> Vec<u8> {
        match &self.0 {
            Place::Own(bytes) => bytes.clone(),
            Place::Leased(lease) => lease.to_vec(),
        }
    }

    /// The first byte. Bytes that have arrived lie in shared memory: no other process has any business there, but one that
    /// goes wrong could write to it.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Bytes;
    /// assert!(!Bytes::from(vec![1, 2, 3]).as_ptr().is_null());
    /// ```
    pub fn as_ptr(&self) -> *const u8 {
        match &self.0 {
            Place::Own(bytes) => bytes.as_ptr(),
            Place::Leased(lease) => lease.as_ptr(),
        }
    }

    /// The bytes where they lie, without a copy.
    ///
    /// # Safety
    /// No other process of the session writes to memory that it was not given, as long as the slice is there. None does that
    /// through this library; one with a stray pointer could.
    ///
    /// # Examples
    /// ```
    /// let bytes = polyproc::Bytes::from(vec![1, 2, 3]);
    /// // SAFETY: these have not been sent: they lie in this process's own memory.
    /// assert_eq!(unsafe { bytes.as_slice() }, [1, 2, 3]);
    /// ```
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: valid for the length as long as `self` lives; the caller vouches for the other processes.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes(Place::Own(bytes))
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Vec<u8> {
        match bytes.0 {
            Place::Own(bytes) => bytes,
            Place::Leased(lease) => lease.to_vec(),
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bytes").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let lease = Lease::allocate(self.len()).map_err(|error| {
            wire::note_refusal(&error);
            S::Error::custom(error)
        })?;
        // SAFETY: both have so many bytes, and the lease is new: nobody else has it.
        unsafe { std::ptr::copy_nonoverlapping(self.as_ptr(), lease.as_ptr(), self.len()) };
        match wire::pack_block(lease) {
            Some(number) => number.serialize(serializer),
            None => Err(S::Error::custom("polyproc::Bytes travel only in the messages of polyproc")),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let number = u32::deserialize(deserializer)?;
        match wire::unpack_block(number) {
            // A fork of this process makes it a copy of its own.
            Some(lease) => Ok(Bytes(Place::Leased(lease.keep()))),
            None => Err(D::Error::custom("a block did not arrive")),
        }
    }
}
