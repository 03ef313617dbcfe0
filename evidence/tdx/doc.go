// Package tdx judges what Intel's CPUs say of a TD: quotes of version 4 and 5, and the TD reports they are made of.
//
// Three steps, in three places. ParseQuote and ParseReport read bytes. Authenticate follows a quote's signature to Intel's
// root, and Authentic.WithCollateral adds what Intel's collateral says of the platform. Appraise compares with what a
// relying party expects. A TD report has a MAC that only its own CPU can check: nothing makes it authentic here.
//
// Sources: Intel, "TDX DCAP Quoting Library API", appendix A (quote format); "TDX Module ABI Specification" (TDREPORT,
// TD attributes, XFAM).
package tdx
