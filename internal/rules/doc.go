// Package rules holds the house rules that a compiler does not know, as tests: who may import whom, what each
// program contains, which words source files must not hold, which known attacks have a test.
package rules
