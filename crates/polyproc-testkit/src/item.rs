//! Messages that tell who sent them, which in order they are, and whether a byte of them is wrong.

/// Bytes before the payload: producer, number, length, checksum.
const HEAD: usize = 24;

/// What an item says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Item {
    /// Who sent it.
    pub producer: u32,
    /// Which of its items.
    pub number: u32,
}

impl Item {
    /// The item of this name.
    pub fn new(producer: u32, number: u32) -> Item {
        Item { producer, number }
    }

    /// The item as `size` bytes (at least 24), none of which can change without being noticed.
    pub fn bytes(self, size: usize) -> Vec<u8> {
        let size = size.max(HEAD);
        let mut bytes = Vec::with_capacity(size);
        bytes.extend(self.producer.to_le_bytes());
        bytes.extend(self.number.to_le_bytes());
        bytes.extend((size as u64).to_le_bytes());
        bytes.extend([0; 8]);
        let mut state =
            (u64::from(self.producer) << 32 | u64::from(self.number)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        while bytes.len() < size {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let word = state.rotate_left(29).to_le_bytes();
            bytes.extend(&word[..word.len().min(size - bytes.len())]);
        }
        let sum = checksum(&bytes).to_le_bytes();
        bytes[16..HEAD].copy_from_slice(&sum);
        bytes
    }

    /// The item in these bytes.
    ///
    /// # Panics
    /// If it is torn.
    pub fn of(bytes: &[u8]) -> Item {
        assert!(bytes.len() >= HEAD, "torn: only {} bytes came", bytes.len());
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let item = Item::new(number(0), number(4));
        assert_eq!(long(8), bytes.len() as u64, "torn: {item:?} has another length");
        assert_eq!(long(16), checksum(bytes), "torn: {item:?} has another checksum");
        item
    }
}

/// FNV-1a over words of eight bytes, without the place of the sum itself.
fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |word: u64| sum = (sum ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    let words = |part: &[u8], add: &mut dyn FnMut(u64)| {
        for chunk in part.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            add(u64::from_le_bytes(word));
        }
    };
    words(&bytes[..16], &mut add);
    words(&bytes[HEAD..], &mut add);
    sum
}

#[cfg(test)]
mod tests {
    use super::Item;

    #[test]
    fn an_item_is_known_again() {
        for size in [0, 24, 25, 1000, 100_001] {
            assert_eq!(Item::of(&Item::new(3, 9).bytes(size)), Item::new(3, 9));
        }
    }

    #[test]
    #[should_panic(expected = "torn")]
    fn one_wrong_bit_is_noticed() {
        let mut bytes = Item::new(3, 9).bytes(100);
        bytes[77] ^= 4;
        Item::of(&bytes);
    }

    #[test]
    #[should_panic(expected = "torn")]
    fn a_missing_byte_is_noticed() {
        Item::of(&Item::new(3, 9).bytes(100)[..99]);
    }
}
