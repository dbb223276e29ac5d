//! A list of a few things, without an allocation.

/// Those after the first `FEW` are allocated.
#[derive(Clone, Debug)]
pub(super) struct Few<V> {
    first: [Option<V>; FEW],
    more: Vec<V>,
}

const FEW: usize = 4;

impl<V> Few<V> {
    /// What the iterator gives, as long as that is no error.
    pub(super) fn collect<E>(from: impl Iterator<Item = Result<V, E>>) -> Result<Few<V>, E> {
        let mut few = Few::NONE;
        for (index, value) in from.enumerate() {
            match few.first.get_mut(index) {
                Some(place) => *place = Some(value?),
                None => few.more.push(value?),
            }
        }
        Ok(few)
    }

    /// Nothing.
    pub(super) const NONE: Few<V> = Few { first: [const { None }; FEW], more: Vec::new() };

    pub(super) fn is_empty(&self) -> bool {
        self.first[0].is_none()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &V> {
        self.first.iter().flatten().chain(&self.more)
    }
}
