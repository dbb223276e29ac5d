//! What a forward pass keeps for its backward pass, if the caller asks for it.

use std::sync::Arc;

use crate::cuda::Memory;
use crate::error::check;
use crate::{Context, Device, Element, Interaction, Result, Tensor, View, ViewMut};

/// P = zB and Q = xC of a CP layer, [N, R] each in the accumulator's type, kept by [`Interaction::forward_saving`] for
/// [`crate::Wanted::saved`]. Of a dense or linear layer nothing is kept: its backward pass does not need more than z and x.
///
/// Without it the backward pass computes P and Q again, block by block, which is the default: it costs a fifth of the
/// FLOPs of backward, and no memory. On a CUDA device they are kept in its memory, wherever z and x are. See docs/performance.md for the trade, measured.
///
/// # Example
///
/// ```
/// use trilinear::{Gradient, Interaction, Saved, View, Wanted};
///
/// let (a, b, c) = ([1.0f32, 2.0], [3.0], [5.0]); // K = 2, I = J = R = 1
/// let layer = Interaction::cp(View::new(&a, [2, 1])?, View::new(&b, [1, 1])?, View::new(&c, [1, 1])?)?;
/// let (z, x) = (View::row(&[1.0]), View::row(&[1.0]));
/// let mut saved = Saved::default();
/// let y = layer.forward_saving(z, x, &mut saved)?;
/// assert_eq!(y.as_slice(), [15.0, 30.0]);
/// let mut dz = [0.0];
/// let wanted = Wanted {
///     z: Some(Gradient::write(trilinear::ViewMut::new(&mut dz, [1, 1])?)),
///     saved: Some(&saved),
///     ..Wanted::default()
/// };
/// layer.backward_into(z, x, View::row(&[1.0, 1.0]), wanted)?;
/// assert_eq!(dz, [45.0]);
/// # Ok::<(), trilinear::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saved<T: Element> {
    /// P and Q, [rows, rank] each, if they are kept on the host.
    pub(crate) p: Vec<T::Accumulator>,
    pub(crate) q: Vec<T::Accumulator>,
    /// P, then Q, if they are kept on a device.
    memory: Option<(Device, Arc<Memory>)>,
    pub(crate) rows: usize,
    pub(crate) rank: usize,
    /// Distance between rows: whole vectors.
    pub(crate) pitch: usize,
}

impl<T: Element> Saved<T> {
    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        match self.memory {
            Some(_) => 2 * self.rows * self.pitch * size_of::<T::Accumulator>(),
            None => size_of_val(self.p.as_slice()) + size_of_val(self.q.as_slice()),
        }
    }

    /// That the backward pass of this context can read what is kept. Errors: [`crate::Error::Place`].
    pub(crate) fn check_place(&self, context: &Context) -> Result<()> {
        let actual = self.memory.as_ref().map_or(Device::Cpu, |&(device, _)| device);
        let expected = context.device();
        if actual == expected || self.rows * self.rank == 0 {
            return Ok(());
        }
        Err(crate::Error::Place { operand: "saved", expected, actual })
    }

    /// The distance between rows, and the elements of each, for so many rows.
    fn layout(rows: usize, rank: usize) -> Result<(usize, usize)> {
        let too_large = crate::Error::TooLarge { what: "saved activations" };
        let pitch = rank.checked_next_multiple_of(16).ok_or(too_large.clone())?;
        let len = rows.checked_mul(pitch).filter(|&len| len <= isize::MAX as usize / 16).ok_or(too_large)?;
        Ok((pitch, len))
    }

    /// Of nothing from now on, as long as what is to be kept has not been written.
    fn forget(&mut self) {
        (self.rows, self.rank) = (0, 0);
    }

    /// Room for so many rows, in the memory that is there if it suffices.
    pub(crate) fn resize(&mut self, rows: usize, rank: usize) -> Result<()> {
        self.forget();
        let (pitch, len) = Self::layout(rows, rank)?;
        self.memory = None;
        for kept in [&mut self.p, &mut self.q] {
            kept.clear();
            let bytes = len * size_of::<T::Accumulator>();
            kept.try_reserve_exact(len).map_err(|_| crate::Error::OutOfMemory { bytes })?;
            kept.resize(len, T::Accumulator::default());
        }
        (self.rows, self.rank, self.pitch) = (rows, rank, pitch);
        Ok(())
    }

    /// Room for so many rows on a device, in the memory that is there if it suffices and nobody else has it: where P and Q
    /// go, and their pitch.
    #[cfg(feature = "cuda")]
    pub(crate) fn resize_on(&mut self, device: Device, rows: usize, rank: usize) -> Result<(u64, u64, usize)> {
        self.forget();
        let (pitch, len) = Self::layout(rows, rank)?;
        let bytes = 2 * len * size_of::<T::Accumulator>();
        (self.p, self.q) = (Vec::new(), Vec::new());
        let fits = |memory: &mut Arc<Memory>| Arc::get_mut(memory).is_some_and(|memory| memory.bytes() >= bytes);
        let reused = self.memory.take().filter(|(at, _)| *at == device).map(|(_, memory)| memory);
        let reused = reused.and_then(|mut memory| fits(&mut memory).then_some(memory));
        let memory = match reused {
            Some(memory) => memory,
            None => Arc::new(Memory::new(device, bytes)?),
        };
        let p = memory.address();
        self.memory = Some((device, memory));
        (self.rows, self.rank, self.pitch) = (rows, rank, pitch);
        Ok((p, p + (bytes / 2) as u64, pitch))
    }

    /// Where P and Q are on a device, and their pitch.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(&self) -> Option<(u64, u64, usize)> {
        let (_, memory) = self.memory.as_ref().filter(|_| self.rows * self.rank > 0)?;
        let p = memory.address();
        Some((p, p + (self.rows * self.pitch * size_of::<T::Accumulator>()) as u64, self.pitch))
    }

    /// That this was kept of so many rows by a layer like this one.
    pub(crate) fn check(&self, layer: &Interaction<'_, T>, rows: usize) -> Result<()> {
        check("saved", "rows", rows, self.rows)?;
        check("saved", "rank", layer.rank().unwrap_or(0), self.rank)
    }
}

impl<T: Element> Interaction<'_, T> {
    /// [`forward`](Self::forward), which also keeps in `saved`, whose memory it uses again, what the backward pass of the
    /// same z and x can use. Errors: as `forward`.
    pub fn forward_saving(&self, z: View<'_, T, 2>, x: View<'_, T, 2>, saved: &mut Saved<T>) -> Result<Tensor<T, 2>> {
        self.check_inputs(&z, &x)?;
        let mut y = Tensor::zeros([x.shape()[0], self.k])?;
        self.forward_saving_into(z, x, y.view_mut(), saved)?;
        Ok(y)
    }

    /// [`forward_saving`](Self::forward_saving) into `y` [N, K]. Errors: as `forward`.
    pub fn forward_saving_into(
        &self,
        z: View<'_, T, 2>,
        x: View<'_, T, 2>,
        y: ViewMut<'_, T, 2>,
        saved: &mut Saved<T>,
    ) -> Result<()> {
        self.check_inputs(&z, &x)?;
        check("y", "rows", x.shape()[0], y.shape()[0])?;
        check("y", "outputs", self.k, y.shape()[1])?;
        (T::calls().forward_saving)(self, z, x, y, saved).inspect_err(|_| saved.forget())
    }
}
