package edu.stanford.nlp.scenegraph;

import edu.stanford.nlp.semgraph.SemanticGraph;
import edu.stanford.nlp.trees.GrammaticalRelation;

public class SemanticGraphEnhancer {
    public static final GrammaticalRelation QMOD_RELATION = new GrammaticalRelation();

    public static void processQuanftificationModifiers(SemanticGraph graph) {}

    public static void collapseCompounds(SemanticGraph graph) {}

    public static void collapseParticles(SemanticGraph graph) {}

    public static void resolvePronouns(SemanticGraph graph) {}
}
