//! How a machine is paid for.

use crate::BoxRequest;

/// How a machine is paid for, where that can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Market {
    /// Cheaply, until the service needs it back.
    Spot,
    /// At the full price.
    OnDemand,
}

impl Market {
    /// Its word, in requests of users, labels and messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Spot => "spot",
            Self::OnDemand => "on-demand",
        }
    }

    /// How to pay for what was asked for, the preferred way first. `fallback` is the user's setting: what begins with
    /// `on-demand` asks for the same at the full price where no spot machine can be had.
    pub fn order_of(request: &BoxRequest, fallback: &str) -> &'static [Self] {
        let spot = request.market.as_deref() == Some("spot");
        match (spot, fallback.starts_with("on-demand")) {
            (false, _) => &[Self::OnDemand],
            (true, false) => &[Self::Spot],
            (true, true) => &[Self::Spot, Self::OnDemand],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_price_is_paid_where_it_was_asked_for_or_may_be_fallen_back_to() {
        let order = |market: Option<&str>, fallback: &str| {
            let market = market.map(str::to_owned);
            Market::order_of(&BoxRequest { market, ..BoxRequest::default() }, fallback)
        };
        assert_eq!(order(Some("spot"), "on-demand-after-120s"), [Market::Spot, Market::OnDemand]);
        assert_eq!(order(Some("spot"), "none"), [Market::Spot]);
        assert_eq!(order(Some("on-demand"), "none"), [Market::OnDemand]);
        assert_eq!(order(None, "on-demand"), [Market::OnDemand]);
    }
}
