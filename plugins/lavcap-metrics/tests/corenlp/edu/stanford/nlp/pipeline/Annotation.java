package edu.stanford.nlp.pipeline;

import edu.stanford.nlp.semgraph.SemanticGraph;
import edu.stanford.nlp.util.CoreMap;
import java.util.Collections;

/** A caption of one sentence, whose graph is its words. */
public class Annotation implements CoreMap {
    private final SemanticGraph graph;

    public Annotation(String text) {
        graph = new SemanticGraph(text);
    }

    public Object get(Class key) {
        CoreMap sentence = other -> graph;
        return Collections.singletonList(sentence);
    }
}
