package edu.stanford.nlp.semgraph;

import edu.stanford.nlp.ling.IndexedWord;
import edu.stanford.nlp.trees.GrammaticalRelation;
import java.util.Collections;
import java.util.Set;

public class SemanticGraph {
    public final String[] words;

    public SemanticGraph(String text) {
        words = text.trim().isEmpty() ? new String[0] : text.trim().split(" +");
    }

    public boolean hasChildWithReln(IndexedWord word, GrammaticalRelation relation) {
        return false;
    }

    public IndexedWord getChildWithReln(IndexedWord word, GrammaticalRelation relation) {
        return null;
    }

    public Set<IndexedWord> getChildrenWithReln(IndexedWord word, GrammaticalRelation relation) {
        return Collections.emptySet();
    }
}
