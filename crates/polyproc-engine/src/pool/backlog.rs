//! Tasks that have not been sent, by priority: the higher first, and in the order of their coming within one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

/// A queue with priorities. See [the module](self).
///
/// # Examples
/// ```
/// use polyproc_engine::pool::Backlog;
///
/// let mut backlog = Backlog::default();
/// backlog.push_back(0, "first");
/// backlog.push_back(0, "second");
/// backlog.push_back(5, "urgent");
/// assert_eq!(backlog.pop_front(), Some((5, "urgent")));
/// assert_eq!(backlog.pop_front(), Some((0, "first")));
/// ```
#[derive(Debug)]
pub struct Backlog<T> {
    /// Priority 0: nearly always the only one.
    usual: VecDeque<T>,
    /// None of these is empty.
    others: BTreeMap<Reverse<i32>, VecDeque<T>>,
}

impl<T> Default for Backlog<T> {
    fn default() -> Backlog<T> {
        Backlog { usual: VecDeque::new(), others: BTreeMap::new() }
    }
}

impl<T> Backlog<T> {
    fn class(&mut self, priority: i32) -> &mut VecDeque<T> {
        if priority == 0 { &mut self.usual } else { self.others.entry(Reverse(priority)).or_default() }
    }

    /// Adds a task behind all of its priority.
    pub fn push_back(&mut self, priority: i32, task: T) {
        self.class(priority).push_back(task);
    }

    /// Adds a task before all of its priority.
    pub fn push_front(&mut self, priority: i32, task: T) {
        self.class(priority).push_front(task);
    }

    /// The highest priority that there is.
    pub fn priority(&self) -> Option<i32> {
        let other = self.others.keys().next().map(|priority| priority.0);
        if self.usual.is_empty() { other } else { Some(other.map_or(0, |other| other.max(0))) }
    }

    /// The task that is next.
    pub fn front(&self) -> Option<&T> {
        match self.priority()? {
            0 => self.usual.front(),
            other => self.others.get(&Reverse(other))?.front(),
        }
    }

    /// Takes the task that is next, and tells its priority.
    pub fn pop_front(&mut self) -> Option<(i32, T)> {
        let priority = self.priority()?;
        if priority == 0 {
            return self.usual.pop_front().map(|task| (0, task));
        }
        let class = self.others.get_mut(&Reverse(priority))?;
        let task = class.pop_front();
        if class.is_empty() {
            self.others.remove(&Reverse(priority));
        }
        task.map(|task| (priority, task))
    }

    /// Takes out the first that is looked for.
    pub fn take_first(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        if let Some(at) = self.usual.iter().position(&is_it) {
            return self.usual.remove(at);
        }
        let (priority, at) =
            self.others.iter().find_map(|(priority, class)| Some((*priority, class.iter().position(&is_it)?)))?;
        let class = self.others.get_mut(&priority)?;
        let task = class.remove(at);
        if class.is_empty() {
            self.others.remove(&priority);
        }
        task
    }

    /// Takes out those that are to go, in their order.
    pub fn take_if(&mut self, mut goes: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut gone = Vec::new();
        for class in self.others.values_mut().chain([&mut self.usual]) {
            for task in std::mem::take(class) {
                if goes(&task) {
                    gone.push(task);
                } else {
                    class.push_back(task);
                }
            }
        }
        self.others.retain(|_, class| !class.is_empty());
        gone
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let urgent = self.others.range(..Reverse(0)).flat_map(|(_, class)| class);
        let others = self.others.range(Reverse(0)..).flat_map(|(_, class)| class);
        urgent.chain(&self.usual).chain(others)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.usual.len() + self.others.values().map(VecDeque::len).sum::<usize>()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.usual.is_empty() && self.others.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_goes_first_and_within_one_the_older() {
        let mut backlog = Backlog::default();
        for (at, priority) in [0, -3, 7, 0, 7, -3].into_iter().enumerate() {
            backlog.push_back(priority, at);
        }
        backlog.push_front(7, 99);
        assert_eq!((backlog.len(), backlog.front()), (7, Some(&99)));
        assert_eq!(backlog.iter().copied().collect::<Vec<_>>(), [99, 2, 4, 0, 3, 1, 5]);
        let gone = backlog.take_if(|&at| at == 0 || at == 4);
        assert_eq!(gone, [4, 0]);
        let order: Vec<_> = std::iter::from_fn(|| backlog.pop_front()).collect();
        assert_eq!(order, [(7, 99), (7, 2), (0, 3), (-3, 1), (-3, 5)]);
        assert!(backlog.is_empty() && backlog.priority().is_none());
    }

    #[test]
    fn what_is_taken_out_of_the_middle_leaves_the_others_in_their_order() {
        let mut backlog = Backlog::default();
        for (at, priority) in [0, 4, 0, 0].into_iter().enumerate() {
            backlog.push_back(priority, at);
        }
        assert_eq!(backlog.take_first(|&at| at == 2), Some(2));
        assert_eq!(backlog.take_first(|&at| at == 2), None);
        assert_eq!(backlog.take_first(|&at| at == 1), Some(1));
        assert_eq!((backlog.priority(), backlog.len()), (Some(0), 2), "no empty class is left");
        assert_eq!(backlog.iter().copied().collect::<Vec<_>>(), [0, 3]);
    }
}
