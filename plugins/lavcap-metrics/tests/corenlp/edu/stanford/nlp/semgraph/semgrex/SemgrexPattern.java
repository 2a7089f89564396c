package edu.stanford.nlp.semgraph.semgrex;

import edu.stanford.nlp.semgraph.SemanticGraph;

public class SemgrexPattern {
    /** The pattern of SPICE that finds nouns; here every word is one, and nothing else is found. */
    private static final String NOUN = "{tag:/NNP?S?/}=word";

    private final String pattern;

    private SemgrexPattern(String pattern) {
        this.pattern = pattern;
    }

    public static SemgrexPattern compile(String pattern) {
        return new SemgrexPattern(pattern);
    }

    public SemgrexMatcher matcher(SemanticGraph graph) {
        return new SemgrexMatcher(NOUN.equals(pattern) ? graph.words : new String[0]);
    }
}
