//! A hash map in shared memory.

use crate::plain::{bytes_of, bytes_of_mut, zeros};
use crate::wire;
use crate::{Plain, Result};
use polyproc_engine::sync::Table;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// A hash map in shared memory, with room for a number of keys that is stated once; every process which has a handle sees the
/// same, and a look costs no message to anybody.
///
/// Keys and values are [`Plain`]: numbers, arrays, structs of them. Keys are the same if their bytes are (so `0.0` and `-0.0`
/// differ). For text use an array of bytes, or a [`Manager`](crate::Manager) around any kind of map.
///
/// Each call but [`clear`](SharedMap::clear) is done as a whole or not at all, whichever process is killed in the midst of it.
///
/// # Examples
/// ```
/// use polyproc::{Process, SharedMap};
///
/// fn count(words: SharedMap<[u8; 8], u32>, text: String) {
///     for word in text.split(' ') {
///         let mut key = [0; 8];
///         key[..word.len()].copy_from_slice(word.as_bytes());
///         words.update(key, |count| Some(count.unwrap_or(0) + 1)).unwrap();
///     }
/// }
///
/// let words = SharedMap::with_capacity(100)?;
/// let children: Vec<_> = ["to be or", "not to be"]
///     .into_iter()
///     .map(|text| Process::spawn(count, (words.clone(), text.to_owned())))
///     .collect::<Result<_, _>>()?;
/// for child in children {
///     child.join().unwrap();
/// }
/// assert_eq!((words.len(), words.get(b"be\0\0\0\0\0\0")), (4, Some(2)));
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct SharedMap<K: Plain, V: Plain> {
    table: Table,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> SharedMap<K, V> {
    /// An empty map with room for so many keys.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the session's memory budget does not allow it, or it is more than 2²⁸.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedMap;
    /// let ages: SharedMap<u32, u64> = SharedMap::with_capacity(100)?;
    /// assert!(ages.is_empty());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn with_capacity(capacity: usize) -> Result<SharedMap<K, V>> {
        Ok(SharedMap { table: Table::new(size_of::<K>(), size_of::<V>(), capacity)?, types: PhantomData })
    }

    /// How many keys it has.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedMap;
    /// let ages: SharedMap<u32, u64> = SharedMap::with_capacity(100)?;
    /// ages.insert(7, 36)?;
    /// assert_eq!(ages.len(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True if it has none.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedMap;
    /// let ages: SharedMap<u32, u64> = SharedMap::with_capacity(100)?;
    /// ages.insert(7, 36)?;
    /// assert!(!ages.is_empty());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many keys it has room for.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedMap;
    /// let ages: SharedMap<u32, u64> = SharedMap::with_capacity(100)?;
    /// ages.insert(7, 36)?;
    /// assert!(ages.capacity() >= 100);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn capacity(&self) -> usize {
        self.table.most()
    }

    /// The value of a key.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedMap;
    /// let ages: SharedMap<u32, u64> = SharedMap::with_capacity(100)?;
    /// ages.insert(7, 36)?;
    /// assert_eq!((ages.get(&7), ages.get(&8)), (Some(36), None));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn get(&self, key: &K) -> Option<V> {
        let mut value = [zeros()];
        self.table.enter().get(bytes_of(std::slice::from_ref(key)), bytes_of_mut(&mut value)).then_some(value[0])
    }

    /// True if it has this key.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedMap;
    /// let ages: SharedMap<u32, u64> = SharedMap::with_capacity(100)?;
    /// ages.insert(7, 36)?;
    /// assert!(ages.contains_key(&7));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Sets the value of a key. Gives the value that it had.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) with [`Full`](polyproc_engine::Error::Full) if the key is new and there is no room
    /// for it.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedMap;
    /// let ages = SharedMap::with_capacity(1)?;
    /// assert_eq!(ages.insert(7u64, 30u8)?, None);
    /// assert_eq!(ages.insert(7, 31)?, Some(30));
    /// assert!(ages.insert(8, 1).is_err());
    /// assert_eq!(ages.remove(&7), Some(31));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>> {
        let mut before = [zeros()];
        let had = self.table.enter().insert(bytes_of(&[key]), bytes_of(&[value]), bytes_of_mut(&mut before))?;
        Ok(had.then_some(before[0]))
    }

    /// Takes a key out. Gives the value that it had.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedMap;
    /// let ages: SharedMap<u32, u64> = SharedMap::with_capacity(100)?;
    /// ages.insert(7, 36)?;
    /// assert_eq!(ages.remove(&7), Some(36));
    /// assert_eq!(ages.remove(&7), None);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn remove(&self, key: &K) -> Option<V> {
        let mut value = [zeros()];
        self.table.enter().remove(bytes_of(std::slice::from_ref(key)), bytes_of_mut(&mut value)).then_some(value[0])
    }

    /// Sets the value of a key to what `change` makes of the value that it has, while nobody else uses the map; `None` stands
    /// for no value. Gives the new value. `change` must not use this map itself.
    ///
    /// # Errors
    /// As [`SharedMap::insert`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedMap;
    /// let ages: SharedMap<u32, u64> = SharedMap::with_capacity(100)?;
    /// ages.insert(7, 36)?;
    /// ages.update(7, |age| Some(age.unwrap_or(0) + 1))?;
    /// assert_eq!(ages.get(&7), Some(37));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn update(&self, key: K, change: impl FnOnce(Option<V>) -> Option<V>) -> Result<Option<V>> {
        let (key, mut value) = ([key], [zeros()]);
        let mut inside = self.table.enter();
        let had = inside.get(bytes_of(&key), bytes_of_mut(&mut value)).then_some(value[0]);
        let has = change(had);
        match has {
            Some(new) => {
                inside.insert(bytes_of(&key), bytes_of(&[new]), bytes_of_mut(&mut value))?;
            }
            None => {
                inside.remove(bytes_of(&key), bytes_of_mut(&mut value));
            }
        }
        Ok(has)
    }

    /// Takes all keys out. If this process is killed meanwhile, some may be left.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedMap;
    /// let ages: SharedMap<u32, u64> = SharedMap::with_capacity(100)?;
    /// ages.insert(7, 36)?;
    /// ages.clear();
    /// assert_eq!(ages.len(), 0);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn clear(&self) {
        self.table.enter().clear();
    }

    /// All keys with their values, as they are at one moment, in no order.
    ///
    /// # Examples
    /// ```
    /// use polyproc::SharedMap;
    /// let ages: SharedMap<u32, u64> = SharedMap::with_capacity(100)?;
    /// ages.insert(7, 36)?;
    /// assert_eq!(ages.to_vec(), [(7, 36)]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn to_vec(&self) -> Vec<(K, V)> {
        let mut all = Vec::with_capacity(self.len());
        self.table.enter().each(|key, value| {
            let (mut k, mut v) = ([zeros()], [zeros()]);
            bytes_of_mut(&mut k).copy_from_slice(key);
            bytes_of_mut(&mut v).copy_from_slice(value);
            all.push((k[0], v[0]));
        });
        all
    }
}

impl<K: Plain, V: Plain> Clone for SharedMap<K, V> {
    fn clone(&self) -> SharedMap<K, V> {
        SharedMap { table: self.table.clone(), types: PhantomData }
    }
}

impl<K: Plain, V: Plain> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMap").field("len", &self.len()).field("capacity", &self.capacity()).finish()
    }
}

impl<K: Plain, V: Plain> Serialize for SharedMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        wire::pack_two(self.table.holds(), serializer)
    }
}

impl<'de, K: Plain, V: Plain> Deserialize<'de> for SharedMap<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<SharedMap<K, V>, D::Error> {
        let take = |lock, memory| Table::from_handles(lock, memory, size_of::<K>(), size_of::<V>());
        Ok(SharedMap { table: wire::unpack_two(deserializer, take)?, types: PhantomData })
    }
}
