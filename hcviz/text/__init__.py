"""Text as blocks of tokens: documents, corpora, a grammar of known entropy."""
