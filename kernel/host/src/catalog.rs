//! What a provider has on offer: its machine types and regions, page by page.

use std::time::{Duration, Instant};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::ports::{Provider, Stop};
use crabbox_kernel::time::format_duration;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::BoxRequest;
use crabbox_schemas::plugin::{
    CatalogParams, CatalogResult, Offer, QuoteParams, QuoteResult, method,
};

use crate::call::Hands;
use crate::fault::broken;
use crate::handshake::context;
use crate::session::Session;

/// Most pages of one catalog.
const MAX_PAGES: usize = 100;
/// Most offers of one catalog; more are not looked at.
const MAX_OFFERS: usize = 10_000;

impl Session {
    /// Machine types that can be asked for, in a region where one is named.
    pub async fn sizes(&self, region: Option<&str>) -> Result<Vec<Offer>> {
        let provider = &self.about().provider;
        self.catalog(method::CATALOG_SIZES, region).await?.ok_or_else(|| {
            KernelError::new(ErrorCode::Unsupported, format!("{provider} lists no machine types"))
                .hint(format!(
                    "its page and `crabbox providers describe {provider}` say what can be set"
                ))
        })
    }

    /// Regions that can be asked for; none where the provider tells of none.
    pub async fn regions(&self) -> Result<Vec<Offer>> {
        self.catalog(method::CATALOG_REGIONS, None).await.map(Option::unwrap_or_default)
    }

    /// What the box that would be asked for costs; `None` where the provider cannot tell.
    pub async fn quote(&self, request: &BoxRequest) -> Result<Option<QuoteResult>> {
        let what = method::PRICING_QUOTE;
        if !self.answers(what) {
            return Ok(None);
        }
        let shape = self.read(what);
        let ctx = context(shape.deadline, shape.grace, "quote");
        let params = QuoteParams { ctx, request: request.clone() };
        match self.ask(shape, &params, Hands::default(), &Stop::never()).await {
            Ok(quote) => Ok(Some(quote)),
            Err(error) if matches!(error.code, ErrorCode::Unsupported | ErrorCode::NotFound) => {
                tracing::debug!(%error, "no price");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// All pages together took too long, and not the one that was asked for last.
    fn too_slow(&self, what: &str, limit: Duration, had: usize) -> KernelError {
        let (provider, limit) = (&self.about().provider, format_duration(limit));
        let what = format!("{provider}: {what} took longer than {limit}; {had} entries came");
        KernelError::new(ErrorCode::ProviderTimeout, what)
            .hint("try again later; --type takes a name that no list was asked for")
    }

    /// Every page of a catalog; `None` when the plugin has no such catalog.
    async fn catalog(
        &self,
        what: &'static str,
        region: Option<&str>,
    ) -> Result<Option<Vec<Offer>>> {
        if !self.answers(what) {
            return Ok(None);
        }
        let mut shape = self.read(what);
        let limit = shape.deadline;
        let until = Instant::now() + limit;
        let (mut offers, mut cursor) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let ctx = context(shape.deadline, shape.grace, "catalog");
            let params = CatalogParams { ctx, region: region.map(str::to_owned), cursor };
            let page = self.ask(shape, &params, Hands::default(), &Stop::never()).await;
            let page: CatalogResult = page.map_err(|error| match error.code {
                ErrorCode::ProviderTimeout => self.too_slow(what, limit, offers.len()),
                _ => error,
            })?;
            offers.extend(page.offers);
            if page.next_cursor.is_none() && offers.len() <= MAX_OFFERS {
                return Ok(Some(offers));
            }
            if page.next_cursor == params.cursor || offers.len() > MAX_OFFERS {
                break;
            }
            cursor = page.next_cursor;
            // All pages together have the time of one call.
            shape.deadline = until.saturating_duration_since(Instant::now());
        }
        Err(broken(&self.about().provider, format!("{what} does not come to an end")))
    }
}
