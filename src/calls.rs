//! The operations as compiled functions of each storage type.
//!
//! The API is generic, and what is generic is compiled again in every crate that uses it. So the API calls the operations
//! through one table of functions for each of the four types, which is a static of this crate: what lies behind it, both
//! engines' drivers, is compiled here, once.

use half::{bf16, f16};

use crate::grouped::{Grouped, GroupedWanted};
use crate::{Element, Gradient, Interaction, Plan, Result, Saved, Tangents, View, ViewMut, Wanted, dispatch};

macro_rules! calls {
    ($($from:ident::$name:ident($($operand:ty),*) -> $result:ty;)*) => {
        /// The operations on elements of a type.
        #[allow(private_interfaces)]
        pub(crate) struct Calls<T: Element> {
            $(pub(crate) $name: fn($($operand),*) -> Result<$result>,)*
        }

        impl<T: Element> Calls<T> {
            const fn new() -> Self {
                Calls { $($name: $from::$name::<T>,)* }
            }
        }
    };
}

calls! {
    dispatch::forward(&Interaction<'_, T>, View<'_, T, 2>, View<'_, T, 2>, ViewMut<'_, T, 2>) -> ();
    dispatch::forward_saving(&Interaction<'_, T>, View<'_, T, 2>, View<'_, T, 2>, ViewMut<'_, T, 2>, &mut Saved<T>) -> ();
    dispatch::forward_shared(&Interaction<'_, T>, View<'_, T, 2>, View<'_, T, 3>, ViewMut<'_, T, 3>) -> ();
    dispatch::forward_pairs(&Interaction<'_, T>, View<'_, T, 3>, View<'_, T, 3>, ViewMut<'_, T, 4>) -> ();
    dispatch::forward_pairs_reduced(&Interaction<'_, T>, View<'_, T, 3>, View<'_, T, 3>, ViewMut<'_, T, 3>, f64) -> ();
    dispatch::forward_grouped(&Grouped<'_, T>, &[usize], View<'_, T, 2>, View<'_, T, 2>, ViewMut<'_, T, 2>) -> ();
    dispatch::generate(&Interaction<'_, T>, View<'_, T, 2>, ViewMut<'_, T, 3>, ViewMut<'_, T, 2>) -> ();
    dispatch::tangent(
        &Interaction<'_, T>, View<'_, T, 2>, View<'_, T, 2>, &Tangents<'_, T>, Gradient<'_, T::Accumulator, 2>
    ) -> ();
    dispatch::backward(&Interaction<'_, T>, View<'_, T, 2>, View<'_, T, 2>, View<'_, T, 2>, Wanted<'_, T>) -> ();
    dispatch::backward_shared(
        &Interaction<'_, T>, View<'_, T, 2>, View<'_, T, 3>, View<'_, T, 3>, Wanted<'_, T, 3>
    ) -> ();
    dispatch::backward_pairs(
        &Interaction<'_, T>, View<'_, T, 3>, View<'_, T, 3>, View<'_, T, 4>, Wanted<'_, T, 3, 3>
    ) -> ();
    dispatch::backward_pairs_reduced(
        &Interaction<'_, T>, View<'_, T, 3>, View<'_, T, 3>, View<'_, T, 3>, Wanted<'_, T, 3, 3>, f64
    ) -> ();
    dispatch::backward_grouped(&Grouped<'_, T>, &[usize], [View<'_, T, 2>; 3], GroupedWanted<'_, '_, T>) -> ();
    dispatch::backward_generate(
        &Interaction<'_, T>, View<'_, T, 2>, View<'_, T, 3>, View<'_, T, 2>, Wanted<'_, T>
    ) -> ();
    dispatch::plan(&Interaction<'_, T>, usize) -> Plan;
    dispatch::plan_shared(&Interaction<'_, T>, usize, usize) -> Plan;
    dispatch::plan_pairs(&Interaction<'_, T>, [usize; 3]) -> Plan;
    dispatch::attend(&Interaction<'_, T>, View<'_, T, 2>, View<'_, T, 2>, ViewMut<'_, T, 2>) -> ();
    dispatch::attend_backward(
        &Interaction<'_, T>, View<'_, T, 2>, View<'_, T, 2>, View<'_, T, 2>, Wanted<'_, T>
    ) -> ();
}

/// A storage type that has such a table.
pub(crate) trait Compiled: Sized {
    fn calls() -> &'static Calls<Self>
    where
        Self: Element;
}

macro_rules! compiled {
    ($($element:ty),*) => {$(
        impl Compiled for $element {
            #[inline]
            fn calls() -> &'static Calls<Self> {
                static CALLS: Calls<$element> = Calls::new();
                &CALLS
            }
        }
    )*};
}

compiled!(f32, f64, f16, bf16);
